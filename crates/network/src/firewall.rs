//! Living beside a firewall that drops what is forwarded, such as Docker's.
//!
//! An accepting rule in our table does not undo a drop in another: where an `iptables` FORWARD chain drops by policy, our pool is
//! accepted there (in DOCKER-USER where it exists, which Docker leaves to the user).

use std::process::Stdio;

use gantry_model::net::Ipv4Net;
use tokio::process::Command;
use tokio::time::timeout;

use crate::NetworkError;
use crate::nft::PROGRAM_SECONDS_MAX;

const CHAINS: [&str; 2] = ["DOCKER-USER", "FORWARD"];

/// Lets the pool's packets pass a dropping FORWARD chain; the chain used, if it was needed.
pub(crate) async fn accept_pool(pool: Ipv4Net, comment: &str) -> Result<Option<&'static str>, NetworkError> {
    let Some(forward) = rules("FORWARD").await? else {
        return Ok(None);
    };
    let dropping = forward
        .lines()
        .any(|line| line == "-P FORWARD DROP" || line == "-P FORWARD REJECT");
    if !dropping {
        return Ok(None);
    }
    let docker = rules("DOCKER-USER").await?;
    let (chain, present) = match &docker {
        Some(docker) => ("DOCKER-USER", docker),
        None => ("FORWARD", &forward),
    };
    for direction in ["-s", "-d"] {
        let rule = rule(direction, pool, comment);
        let known = present
            .lines()
            .any(|line| is_ours(line, comment) && line.contains(&format!("{direction} {pool}")));
        if !known {
            let mut arguments = vec!["-I".to_string(), chain.to_string(), "1".to_string()];
            arguments.extend(rule);
            iptables(&arguments).await?;
        }
    }
    Ok(Some(chain))
}

/// Removes what [`accept_pool`] added, from wherever it is.
pub(crate) async fn forget_pool(comment: &str) -> Result<(), NetworkError> {
    for chain in CHAINS {
        let Some(present) = rules(chain).await? else { continue };
        for line in present.lines().filter(|line| is_ours(line, comment)) {
            let words = line.split_whitespace().map(|word| word.trim_matches('"').to_string());
            let arguments: Vec<String> = std::iter::once("-D".to_string()).chain(words.skip(1)).collect();
            iptables(&arguments).await?;
        }
    }
    Ok(())
}

fn rule(direction: &str, pool: Ipv4Net, comment: &str) -> Vec<String> {
    let pool = pool.to_string();
    let words = [direction, &pool, "-m", "comment", "--comment", comment, "-j", "ACCEPT"];
    words.map(str::to_string).to_vec()
}

fn is_ours(line: &str, comment: &str) -> bool {
    let mut words = line.split_whitespace().skip_while(|word| *word != "--comment");
    words.nth(1).is_some_and(|word| word.trim_matches('"') == comment)
}

/// A chain's rules; none when it does not exist or the machine has no `iptables`.
async fn rules(chain: &str) -> Result<Option<String>, NetworkError> {
    iptables(&["-S".to_string(), chain.to_string()]).await
}

async fn iptables(arguments: &[String]) -> Result<Option<String>, NetworkError> {
    let mut command = Command::new("iptables");
    command
        .arg("-w")
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(PROGRAM_SECONDS_MAX, command.output()).await;
    let output = output.map_err(|_| NetworkError::ProgramTimeout { program: "iptables" })?;
    match output {
        Ok(output) if output.status.success() => Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned())),
        Ok(_) => Ok(None),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(NetworkError::Program {
            program: "iptables",
            source,
        }),
    }
}
