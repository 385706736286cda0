//! `state`, `list`, `ps`.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::OciError;
use crate::args::{ListArgs, ListFormat, PsArgs};
use crate::store::{Container, Store};

/// The state as the specification has it, and what runc adds.
fn document(container: &Container) -> Value {
    let record = &container.record;
    let root = record.spec.root.as_ref().map(|root| record.bundle.join(&root.path));
    json!({
        "ociVersion": crate::OCI_VERSION,
        "id": record.id,
        "pid": container.pid().unwrap_or(0),
        "status": container.status().name(),
        "bundle": record.bundle,
        "rootfs": root,
        "created": record.created,
        "annotations": record.spec.annotations,
        "owner": container.owner(),
    })
}

fn print(value: &Value) {
    println!("{value:#}");
}

/// Shows one.
pub(super) fn state(container: &Container) -> Result<(), OciError> {
    print(&document(container));
    Ok(())
}

/// Shows all.
pub(super) fn list(store: &Store, args: &ListArgs) -> Result<(), OciError> {
    let containers = store.list()?;
    if args.quiet {
        for container in &containers {
            println!("{}", container.record.id);
        }
        return Ok(());
    }
    match args.format {
        ListFormat::Json => println!("{}", Value::from_iter(containers.iter().map(document))),
        ListFormat::Table => print_table(&containers),
    }
    Ok(())
}

fn print_table(containers: &[Container]) {
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_string)];
    for container in containers {
        let record = &container.record;
        rows.push([
            record.id.clone(),
            container.pid().unwrap_or(0).to_string(),
            container.status().name().to_string(),
            record.bundle.display().to_string(),
            record.created.clone(),
            container.owner(),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        println!("{}", cells.join("   ").trim_end());
    }
}

/// Its processes: ids, or the lines of ps(1) that are about them.
pub(super) fn ps(container: &Container, args: &PsArgs) -> Result<(), OciError> {
    let processes = container.group.processes()?;
    match args.format {
        ListFormat::Json => println!("{}", json!(processes)),
        ListFormat::Table => print_processes(&processes, &args.options)?,
    }
    Ok(())
}

fn print_processes(processes: &[i32], options: &[String]) -> Result<(), OciError> {
    let default = ["-ef".to_string()];
    let options = if options.is_empty() { &default[..] } else { options };
    let output = Command::new("ps")
        .args(options)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|source| OciError::io("run", "ps".as_ref(), source))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let heading = lines.next().unwrap_or_default();
    let column = heading.split_whitespace().position(|name| name == "PID");
    let column = column.ok_or_else(|| OciError::Usage("ps shows no column PID with these options".to_string()))?;
    println!("{heading}");
    for line in lines {
        let id = line.split_whitespace().nth(column).and_then(|id| id.parse().ok());
        if id.is_some_and(|id: i32| processes.contains(&id)) {
            println!("{line}");
        }
    }
    Ok(())
}
