//! Which trees a stage takes from: `COPY --from` and `RUN --mount=from=`.

use std::collections::BTreeSet;

use gantry_model::ImageReference;

use super::base::{SCRATCH, is_named};
use super::mounts::{Wrong, from_of};
use super::{Base, Shared, Stage};
use crate::ast::{Instruction, Kind};
use crate::diagnostic::{Diagnostic, Span};
use crate::operation::Source;
use crate::suggest::did_you_mean;

impl Shared {
    /// Everything that the stage takes from, triggers of earlier stages of this file included.
    pub(crate) fn collect_sources(
        &self,
        index: usize,
        before: &[Stage],
        stage: &mut Stage,
    ) -> Result<(), Vec<Diagnostic>> {
        let mut errors = Vec::new();
        let own = self.dockerfile.stages[index].instructions.iter();
        let mut mentions: Vec<(String, Span)> = own.flat_map(mentioned).collect();
        if let Base::Stage(base) = stage.base {
            mentions.extend(self.triggers(base.0 as usize).flat_map(mentioned));
        }
        for (name, span) in mentions {
            match self.source(&name, index, before) {
                Ok(Source::Stage(id)) => {
                    stage.needs.insert(id);
                }
                Ok(Source::Context | Source::Scratch) => {}
                Ok(source) => {
                    stage.sources.insert(source);
                }
                Err((message, help)) => errors.push(Diagnostic::error(span, message).help(help)),
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    fn triggers(&self, index: usize) -> impl Iterator<Item = &Instruction> {
        let instructions = self
            .dockerfile
            .stages
            .get(index)
            .into_iter()
            .flat_map(|stage| &stage.instructions);
        instructions.filter_map(|instruction| match &instruction.kind {
            Kind::OnBuild(trigger) => Some(trigger.instruction.as_ref()),
            _ => None,
        })
    }

    /// The tree of a name or number, seen from a stage.
    pub(crate) fn source(&self, name: &str, index: usize, before: &[Stage]) -> Result<Source, Wrong> {
        if name.contains('$') {
            let help = "name a stage instead: FROM with an ARG from before the first FROM, AS a name";
            return Err((
                format!("variables are not replaced in from={name}"),
                Some(help.to_string()),
            ));
        }
        if let Ok(number) = name.parse::<usize>() {
            return match before.get(number) {
                Some(stage) if number < index => Ok(Source::Stage(stage.id)),
                _ => Err((format!("stage {number} is not before this one, which is {index}"), None)),
            };
        }
        let lower = name.to_lowercase();
        if let Some(stage) = before[..index.min(before.len())]
            .iter()
            .rev()
            .find(|stage| is_named(stage, &lower))
        {
            return Ok(Source::Stage(stage.id));
        }
        self.refuse_circle(&lower, index)?;
        if lower == SCRATCH {
            return Ok(Source::Scratch);
        }
        if let Some(context) = self.named_context(name) {
            return Ok(Source::Named(context));
        }
        name.parse::<ImageReference>().map(Source::Image).map_err(|error| {
            let names = before.iter().map(|stage| stage.name.as_str());
            (
                format!("'{name}' is no stage before this one, and {error}"),
                did_you_mean(name, names),
            )
        })
    }

    /// A stage cannot take from itself or from a later one.
    fn refuse_circle(&self, name: &str, index: usize) -> Result<(), Wrong> {
        let Some(later) = self.stage_named(name).filter(|later| *later >= index) else {
            return Ok(());
        };
        if later == index {
            return Err((format!("the stage '{name}' takes from itself"), None));
        }
        if self.reaches(later, index, &mut BTreeSet::new()) {
            let own = self.name_of(index);
            let help = "put what both need into a third stage before them".to_string();
            return Err((
                format!("the stages '{own}' and '{name}' take from each other"),
                Some(help),
            ));
        }
        let line = self.dockerfile.stages[later].from.span.line;
        let help = format!("move '{name}' before this stage");
        Err((format!("the stage '{name}' comes later, on line {line}"), Some(help)))
    }

    fn stage_named(&self, name: &str) -> Option<usize> {
        let stages = &self.dockerfile.stages;
        stages.iter().rposition(|stage| {
            stage
                .base
                .name
                .as_ref()
                .is_some_and(|own| own.text.to_lowercase() == name)
        })
    }

    fn name_of(&self, index: usize) -> String {
        let name = self.dockerfile.stages[index].base.name.as_ref();
        name.map_or_else(|| format!("stage-{index}"), |name| name.text.to_lowercase())
    }

    /// Whether a stage needs another, by names alone.
    fn reaches(&self, from: usize, to: usize, seen: &mut BTreeSet<usize>) -> bool {
        let mut waiting = vec![from];
        while let Some(stage) = waiting.pop() {
            if stage == to {
                return true;
            }
            if !seen.insert(stage) {
                continue;
            }
            let text = &self.dockerfile.stages[stage];
            let base = text.base.base.text.to_lowercase();
            let names = text
                .instructions
                .iter()
                .flat_map(mentioned)
                .map(|(name, _)| name.to_lowercase());
            waiting.extend(names.chain([base]).filter_map(|name| self.stage_named(&name)));
        }
        false
    }
}

/// Names of trees in an instruction, with their places.
fn mentioned(instruction: &Instruction) -> Vec<(String, Span)> {
    match &instruction.kind {
        Kind::Copy(copy) => copy.from.iter().map(|from| (from.text.clone(), from.span)).collect(),
        Kind::Run(run) => {
            let mounts = run.mounts.iter();
            mounts
                .filter_map(|mount| Some((from_of(&mount.text)?, mount.span)))
                .collect()
        }
        _ => Vec::new(),
    }
}
