//! Hooks, one to one.

use std::path::Path;

use gantry_runtime::plan::{HookPlan, HooksPlan};

use crate::spec::{Hook, Spec};

pub(super) fn plan(spec: &Spec, bundle: &Path) -> HooksPlan {
    let hooks = spec.hooks.clone().unwrap_or_default();
    HooksPlan {
        prestart: plans(&hooks.prestart),
        create_runtime: plans(&hooks.create_runtime),
        create_container: plans(&hooks.create_container),
        start_container: plans(&hooks.start_container),
        poststart: plans(&hooks.poststart),
        poststop: plans(&hooks.poststop),
        bundle: Some(bundle.to_path_buf()),
        annotations: spec.annotations.clone(),
    }
}

/// Programs as the shim runs them.
#[must_use]
pub fn plans(hooks: &[Hook]) -> Vec<HookPlan> {
    let plan = |hook: &Hook| HookPlan {
        path: hook.path.clone(),
        args: hook.args.clone(),
        env: hook.env.clone(),
        // 0 and below is how Go programs leave it out.
        timeout_s: hook
            .timeout
            .and_then(|seconds| u32::try_from(seconds).ok())
            .filter(|seconds| *seconds > 0),
    };
    hooks.iter().map(plan).collect()
}
