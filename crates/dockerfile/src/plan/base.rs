//! What a stage starts from.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::ImageReference;

use super::arguments::Globals;
use super::{Base, Shared, Stage, stage_id};
use crate::ast::{CheckOptions, Dockerfile, StageText};
use crate::diagnostic::{Diagnostic, Rule};
use crate::expand::{Expansion, Lexer, expand};
use crate::lint::Lints;
use crate::options::PlanOptions;
use crate::platform::Platform;
use crate::suggest::{did_you_mean, nearest};

/// The image with nothing in it.
pub(crate) const SCRATCH: &str = "scratch";

/// Without build arguments every base should still be an image.
pub(crate) fn check_defaults(dockerfile: &Dockerfile, options: &PlanOptions, lints: &mut Lints) {
    let Ok(globals) = Globals::read(dockerfile, options, &BTreeMap::new()) else {
        return;
    };
    let lexer = Lexer::new(dockerfile.directives.escape);
    for stage in &dockerfile.stages {
        let base = &stage.base.base;
        let Ok(expansion) = expand(lexer, &base.text, &globals.values) else {
            return;
        };
        if base.text.contains('$') && expansion.text.to_lowercase().parse::<ImageReference>().is_err() {
            let message = format!(
                "default value for ARG {} results in empty or invalid base image name",
                base.text
            );
            let check = lints.for_instruction(&stage.from.comments);
            lints.add(&check, Rule::InvalidDefaultArgInFrom, base.span, message);
        }
    }
}

impl Shared {
    /// A stage, from those before it.
    pub(crate) fn stage(&self, index: usize, before: &[Stage], lints: &mut Lints) -> Result<Stage, Vec<Diagnostic>> {
        let text = &self.dockerfile.stages[index];
        let check = lints.for_instruction(&text.from.comments);
        let mut stage = self.broken_stage(index);
        let single = |error| vec![error];
        stage.platform = self.platform_of(text, lints, &check).map_err(single)?;
        stage.base = self.base(text, before, lints, &check).map_err(single)?;
        if let Base::Stage(base) = stage.base {
            stage.needs.insert(base);
            if let Some(base) = before.get(base.0 as usize) {
                stage.platform = base.platform.clone();
            }
        }
        if !matches!(stage.base, Base::Context { replaces: true, .. }) {
            self.collect_sources(index, before, &mut stage)?;
        }
        Ok(stage)
    }

    /// The place of a stage whose base is not known, so that later ones keep their numbers.
    pub(crate) fn broken_stage(&self, index: usize) -> Stage {
        let text = &self.dockerfile.stages[index];
        let name = text.base.name.as_ref().map(|name| name.text.to_lowercase());
        Stage {
            id: stage_id(index),
            name: name.unwrap_or_else(|| format!("stage-{index}")),
            base: Base::Scratch,
            platform: self.platform().clone(),
            span: text.from.span,
            needs: BTreeSet::new(),
            sources: BTreeSet::new(),
        }
    }

    fn base(
        &self,
        text: &StageText,
        before: &[Stage],
        lints: &mut Lints,
        check: &CheckOptions,
    ) -> Result<Base, Diagnostic> {
        let word = &text.base.base;
        let expansion = self.expand_global(word, lints, check)?;
        if let Some(name) = text.base.name.as_ref().map(|name| name.text.to_lowercase())
            && let Some(name) = self.named_context(&name)
        {
            return Ok(Base::Context { name, replaces: true });
        }
        let base = expansion.text.as_str();
        if base.is_empty() {
            let names = self.globals.names();
            let unknown = expansion.unmatched.iter().next();
            let help = unknown.map(|unknown| match nearest(unknown, names) {
                Some(name) => format!("did you mean ${name}?"),
                None => format!("give it a value: ARG {unknown}=… before the first FROM, or --build-arg {unknown}=…"),
            });
            return Err(Diagnostic::error(word.span, format!("the base '{}' is empty", word.text)).help(help));
        }
        let lower = base.to_lowercase();
        if let Some(stage) = before.iter().rev().find(|stage| is_named(stage, &lower)) {
            return Ok(Base::Stage(stage.id));
        }
        if base == SCRATCH {
            return Ok(Base::Scratch);
        }
        if let Some(name) = self.named_context(base) {
            return Ok(Base::Context { name, replaces: false });
        }
        base.parse().map(Base::Image).map_err(|error| {
            let names = before.iter().map(|stage| stage.name.as_str());
            let help = did_you_mean(base, names);
            Diagnostic::error(word.span, format!("'{base}' is no stage before this one, and {error}")).help(help)
        })
    }

    /// The context that takes the place of an image or stage of this name.
    pub(crate) fn named_context(&self, name: &str) -> Option<String> {
        let contexts = &self.options.named_contexts;
        if name.eq_ignore_ascii_case(SCRATCH) || contexts.is_empty() {
            return None;
        }
        if contexts.contains(name) {
            return Some(name.to_string());
        }
        let image: ImageReference = name.parse().ok()?;
        let same = |context: &&String| context.parse::<ImageReference>().is_ok_and(|context| context == image);
        contexts.iter().find(same).cloned()
    }

    fn platform_of(&self, text: &StageText, lints: &mut Lints, check: &CheckOptions) -> Result<Platform, Diagnostic> {
        let Some(word) = &text.base.platform else {
            return Ok(self.platform().clone());
        };
        let expansion = self.expand_global(word, lints, check)?;
        let target = "TARGETPLATFORM";
        if expansion.matched.len() == 1
            && expansion.unmatched.is_empty()
            && expansion.matched.contains(target)
            && self.globals.values.get(target) == Some(expansion.text.as_str())
        {
            let message = format!(
                "setting platform to predefined {} in FROM is redundant as this is the default behavior",
                word.text
            );
            lints.add(check, Rule::RedundantTargetPlatform, word.span, message);
        }
        if expansion.text.is_empty() {
            let help = did_you_mean_any(&expansion, &self.globals);
            return Err(Diagnostic::error(word.span, format!("the platform '{}' is empty", word.text)).help(help));
        }
        let platform: Platform = expansion.text.parse().map_err(|error: crate::PlatformError| {
            Diagnostic::error(word.span, error.to_string()).help(did_you_mean_any(&expansion, &self.globals))
        })?;
        let name = text
            .base
            .name
            .as_ref()
            .map(|name| name.text.to_lowercase())
            .unwrap_or_default();
        let is_constant = expansion.matched.is_empty() && expansion.unmatched.is_empty();
        if is_constant && !name.contains(&platform.os) && !name.contains(&platform.architecture) {
            let message = format!(
                "FROM --platform flag should not use constant value \"{}\"",
                expansion.text
            );
            lints.add(check, Rule::FromPlatformFlagConstDisallowed, word.span, message);
        }
        Ok(platform)
    }

    /// With the arguments before the first `FROM` alone.
    fn expand_global(
        &self,
        word: &crate::ast::Word,
        lints: &mut Lints,
        check: &CheckOptions,
    ) -> Result<Expansion, Diagnostic> {
        let lexer = Lexer::new(self.dockerfile.directives.escape);
        let expansion = expand(lexer, &word.text, &self.globals.values);
        let expansion = expansion.map_err(|error| Diagnostic::error(word.span, error.to_string()))?;
        let names = self.globals.names();
        for unknown in expansion.unmatched.iter().filter(|name| !names.contains(name.as_str())) {
            let near = nearest(unknown, names.iter().copied());
            let near = near.map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
            let message = format!("FROM argument '{unknown}' is not declared{near}");
            lints.add(check, Rule::UndefinedArgInFrom, word.span, message);
        }
        Ok(expansion)
    }
}

/// `stage-1` is no name that the file gave.
pub(crate) fn is_named(stage: &Stage, name: &str) -> bool {
    stage.name == name && stage.name != format!("stage-{}", stage.id.0)
}

fn did_you_mean_any(expansion: &Expansion, globals: &Globals) -> Option<String> {
    let names = globals.names();
    let near = expansion
        .unmatched
        .iter()
        .find_map(|unknown| nearest(unknown, names.iter().copied()));
    near.map(|near| format!("did you mean ${near}?"))
}
