//! Transactions on the packet rules: the one seam through which rules reach the kernel.
//!
//! A transaction costs about 2.5 ms, nearly all of it the start of the `nft` process.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::NetworkError;

/// A transaction of 20,000 elements takes 160 ms; past this the machine is stuck.
pub(crate) const PROGRAM_SECONDS_MAX: Duration = Duration::from_secs(20);

/// Commits one transaction, all of it or nothing.
pub(crate) async fn commit(table: &str, text: &str) -> Result<(), NetworkError> {
    let program = |source| NetworkError::Program { program: "nft", source };
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(program)?;
    let mut stdin = child.stdin.take().expect("standard input was piped above");
    let text = text.as_bytes().to_vec();
    // Fed beside the wait: nft may complain on standard error before it has read everything.
    let feed = async move {
        let _ = stdin.write_all(&text).await;
        drop(stdin);
    };
    let run = async { tokio::join!(feed, child.wait_with_output()).1 };
    let output = timeout(PROGRAM_SECONDS_MAX, run).await;
    let output = output.map_err(|_| NetworkError::ProgramTimeout { program: "nft" })?;
    let output = output.map_err(program)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    let message = message.lines().next().unwrap_or("no reason given").to_string();
    let table = table.to_string();
    Err(NetworkError::Rules { table, message })
}

/// Replaces a table as a whole; `render` gives the text for a name.
///
/// In one transaction that removes and adds it, a packet under way would pass the new chains while they are empty yet and look
/// for elements of the old maps when these are gone already. So a second table of the same content stands in meanwhile: at any
/// moment one of the two is whole. A stand-in that an interrupted replacement left is replaced first.
pub(crate) async fn replace(table: &str, render: impl Fn(&str) -> String) -> Result<(), NetworkError> {
    if !has_table(table).await? {
        return commit(table, &render(table)).await;
    }
    let stand_in = stand_in(table);
    commit(&stand_in, &render(&stand_in)).await?;
    commit(table, &render(table)).await?;
    remove(&stand_in).await
}

fn stand_in(table: &str) -> String {
    format!("{table}_next")
}

/// Whether there is a table of that name.
pub(crate) async fn has_table(table: &str) -> Result<bool, NetworkError> {
    exists(&["-t", "list", "table", "ip", table]).await
}

/// Whether there is a table with such a chain.
pub(crate) async fn has_chain(table: &str, chain: &str) -> Result<bool, NetworkError> {
    exists(&["-t", "list", "chain", "ip", table, chain]).await
}

async fn exists(arguments: &[&str]) -> Result<bool, NetworkError> {
    let program = |source| NetworkError::Program { program: "nft", source };
    let listed = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .status();
    let status = timeout(PROGRAM_SECONDS_MAX, listed).await;
    let status = status.map_err(|_| NetworkError::ProgramTimeout { program: "nft" })?;
    Ok(status.map_err(program)?.success())
}

/// Removes the table, if there is one, and what may stand in for it.
pub(crate) async fn delete_table(table: &str) -> Result<(), NetworkError> {
    remove(&stand_in(table)).await?;
    remove(table).await
}

async fn remove(table: &str) -> Result<(), NetworkError> {
    commit(table, &format!("add table ip {table}\ndelete table ip {table}\n")).await
}
