//! A shim's beginning and its one answer: what it is to do comes as descriptors over the socket that is its standard input.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use gantry_sys::process::close_inherited_from;
use gantry_sys::socket;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::unistd::dup2_stdin;

use crate::Failure;
use crate::failure::During;
use crate::plan::Task;
use crate::stdio::{ChildStreams, open_null};
use crate::wire::{Delivery, LaunchReport, MESSAGE_LENGTH_MAX};

/// The first number that a descriptor of ours gets, after the standard streams.
const FIRST: i32 = 3;

/// What a shim was given.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) task: Task,
    pub(crate) line: Line,
    pub(crate) streams: Option<ChildStreams>,
    /// What the process inherits, from 3 on.
    pub(crate) passed: Vec<OwnedFd>,
}

/// Where the answer goes.
#[derive(Debug)]
pub(crate) struct Line(OwnedFd);

impl Line {
    /// A launcher that died meanwhile finds the state record when it comes back.
    pub(crate) fn report(&self, answer: &LaunchReport) {
        let _ = serde_json::to_vec(answer).map(|text| socket::send(&self.0, &text, &[]));
    }
}

/// Takes what this process was started for. Its standard input is `/dev/null` from then on.
pub(crate) fn take() -> Result<Given, Failure> {
    let act = "receive";
    let what = "the task";
    close_inherited_from(FIRST as u32).during("close", "inherited descriptors")?;
    let mut buffer = vec![0; MESSAGE_LENGTH_MAX];
    let (length, fds) = socket::receive(std::io::stdin(), &mut buffer).during(act, what)?;
    let delivery: Delivery =
        serde_json::from_slice(&buffer[..length]).map_err(|error| Failure::found(act, what, error))?;
    let line = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .during("duplicate", "the line")?;
    dup2_stdin(open_null()?).during("close", "standard input")?;
    let mut fds = fds.into_iter();
    let passed: Vec<OwnedFd> = fds.by_ref().take(delivery.passed_fds as usize).collect();
    if !passed.iter().zip(FIRST..).all(|(fd, number)| fd.as_raw_fd() == number) {
        return Err(Failure::found(
            act,
            "inherited descriptors",
            "they did not arrive in order",
        ));
    }
    for fd in &passed {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).during("keep", "an inherited descriptor")?;
    }
    let missing = || Failure::found(act, what, "a descriptor is missing");
    let mut text = Vec::new();
    File::from(fds.next().ok_or_else(missing)?)
        .read_to_end(&mut text)
        .during(act, what)?;
    let streams = if delivery.has_stdio {
        let mut next = || fds.next().ok_or_else(missing);
        Some(ChildStreams::Open([next()?, next()?, next()?]))
    } else {
        None
    };
    Ok(Given {
        task: serde_json::from_slice(&text).map_err(|error| Failure::found(act, what, error))?,
        line: Line(line),
        streams,
        passed,
    })
}
