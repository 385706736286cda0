//! A first process of ours, for containers that asked for one (`init: true`): it starts the user's process as its child,
//! passes signals on to it, reaps what is left over, and ends as the child did.

use gantry_sys::process::{close_inherited_from, exit_now, fork, reap, reset_signal_actions};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::unistd::Pid;

use crate::failure::During;
use crate::namespaces::UserSpace;
use crate::plan::ProcessPlan;
use crate::process::Setup;
use crate::{Failure, identity, process};

pub(crate) fn fork_user_process(setup: Setup<'_>) -> ! {
    let forked = fork().during("fork", "the user's process");
    match forked {
        Ok(None) => process::execute(Setup {
            role: process::Role::BelowInit,
            ..setup
        }),
        Ok(Some(child)) => {
            let Setup {
                plan,
                streams,
                channel,
                space,
                is_attended,
                hold,
                ..
            } = setup;
            // Closed here, the streams end when the user's process and its children are gone.
            drop((streams, hold));
            let ready = give_up_privileges(plan, space, is_attended);
            if let Err(failure) = &ready {
                channel.send_failure(failure);
                exit_now(failure.exit_code());
            }
            drop(channel);
            // The node's folders and the shim's lock were open for the way here only.
            let _ = close_inherited_from(3);
            attend(child)
        }
        Err(failure) => {
            setup.channel.send_failure(&failure);
            exit_now(failure.exit_code())
        }
    }
}

fn give_up_privileges(plan: &ProcessPlan, space: Option<&UserSpace>, is_attended: bool) -> Result<(), Failure> {
    reset_signal_actions();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None).during("block", "signals")?;
    let identity = identity::look_up(plan)?;
    let null = crate::stdio::open_null()?;
    nix::unistd::dup2_stdin(&null).during("duplicate", "standard input")?;
    nix::unistd::dup2_stdout(&null).during("duplicate", "standard output")?;
    nix::unistd::dup2_stderr(&null).during("duplicate", "standard error")?;
    if let Some(space) = space {
        space.enter(false)?;
    }
    identity::assume(plan, &identity)?;
    if is_attended {
        prctl::set_pdeathsig(Signal::SIGKILL).during("tie", "the process to its shim")?;
    }
    Ok(())
}

/// Passes on every signal and reaps, until the child has ended.
fn attend(child: Pid) -> ! {
    let all = SigSet::all();
    loop {
        match all.wait() {
            Ok(Signal::SIGCHLD) => {
                while let Ok(Some((pid, code))) = reap() {
                    if pid == child {
                        // The kernel kills what is left in this pid namespace.
                        exit_now(code);
                    }
                }
            }
            // A child that is gone is reaped with the next SIGCHLD.
            Ok(signal) => drop(kill(child, signal)),
            // A real-time signal, which has no name here.
            Err(_) => {}
        }
    }
}
