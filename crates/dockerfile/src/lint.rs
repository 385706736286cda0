//! Which rules run, and what they found.

use crate::ast::{CheckOptions, Word};
use crate::diagnostic::{Diagnostic, Rule, Span};
use crate::limits::DIAGNOSTICS_MAX;

/// Collects warnings of the rules that run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lints {
    options: CheckOptions,
    found: Vec<Diagnostic>,
}

impl Lints {
    pub fn new(options: CheckOptions) -> Self {
        Self {
            options,
            found: Vec::new(),
        }
    }

    /// The same rules without findings, and those that an instruction's comments leave out.
    pub fn for_instruction(&self, comments: &[Word]) -> CheckOptions {
        let own = comments
            .iter()
            .filter_map(|comment| comment.text.strip_prefix("check="));
        own.fold(self.options.clone(), |options, text| match CheckOptions::parse(text) {
            Ok(own) => options.merged(own),
            Err(_) => options,
        })
    }

    /// Reports, unless the options leave the rule out.
    pub fn add(&mut self, options: &CheckOptions, rule: Rule, span: Span, message: impl Into<String>) {
        if options.runs(rule) && self.found.len() < DIAGNOSTICS_MAX {
            let warning = Diagnostic::warning(rule, span, message);
            if !self.found.contains(&warning) {
                self.found.push(warning);
            }
        }
    }

    /// The same with advice.
    pub fn add_with_help(&mut self, options: &CheckOptions, warning: Diagnostic) {
        let runs = warning.rule.is_none_or(|rule| options.runs(rule));
        if runs && self.found.len() < DIAGNOSTICS_MAX && !self.found.contains(&warning) {
            self.found.push(warning);
        }
    }

    /// In the order of lines.
    pub fn into_sorted(mut self) -> Vec<Diagnostic> {
        self.found.sort_by_key(|warning| warning.span);
        self.found
    }
}

impl CheckOptions {
    /// `skip=A,B;error=true;experimental=all`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut options = Self::default();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let Some((key, value)) = part.split_once('=') else {
                return Err(format!(
                    "'{part}' is no check option: write skip=RULE,RULE or error=true"
                ));
            };
            let value = value.trim();
            let rules = || value.split(',').filter_map(|name| Rule::named(name.trim())).collect();
            match key.trim() {
                "skip" if value == "all" => options.skip_all = true,
                "skip" => options.skip = rules(),
                "experimental" if value == "all" => options.experimental_all = true,
                "experimental" => options.experimental = rules(),
                "error" => match value.to_ascii_lowercase().as_str() {
                    "true" | "1" | "t" => options.error = true,
                    "false" | "0" | "f" => options.error = false,
                    _ => return Err(format!("error={value}: write error=true or error=false")),
                },
                other => {
                    return Err(format!(
                        "'{other}' is no check option: the options are skip, error and experimental"
                    ));
                }
            }
        }
        Ok(options)
    }

    fn runs(&self, rule: Rule) -> bool {
        let wanted = !rule.is_experimental() || self.experimental_all || self.experimental.contains(&rule);
        wanted && !self.skip_all && !self.skip.contains(&rule)
    }

    fn merged(mut self, own: Self) -> Self {
        self.skip_all |= own.skip_all;
        self.skip.extend(own.skip);
        self.experimental_all |= own.experimental_all;
        self.experimental.extend(own.experimental);
        self
    }
}

/// The error of a file with `# check=error=true` and warnings, if that is what it is.
#[must_use]
pub fn refusal(options: &CheckOptions, warnings: &[Diagnostic]) -> Option<Diagnostic> {
    if !options.error || warnings.is_empty() {
        return None;
    }
    let mut rules: Vec<&str> = warnings
        .iter()
        .filter_map(|warning| warning.rule)
        .map(Rule::name)
        .collect();
    rules.sort_unstable();
    rules.dedup();
    let message = format!(
        "the Dockerfile asks for no build with warnings, and has some: {}",
        rules.join(", ")
    );
    let help = "correct what the warnings are about, or leave 'check=error=true' out".to_string();
    Some(Diagnostic::error(None, message).help(help))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let options = CheckOptions::parse("skip=StageNameCasing, fromascasing;error=true").expect("valid");
        assert_eq!(options.skip, [Rule::StageNameCasing, Rule::FromAsCasing]);
        assert!(options.error && !options.runs(Rule::FromAsCasing) && options.runs(Rule::UndefinedVar));
        assert!(!options.runs(Rule::CopyIgnoredFile));
        assert!(
            CheckOptions::parse("experimental=all")
                .expect("valid")
                .runs(Rule::CopyIgnoredFile)
        );
        assert!(CheckOptions::parse("skip=all").expect("valid").skip_all);
        for wrong in ["skip", "error=maybe", "colour=red"] {
            assert!(CheckOptions::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_file_may_refuse_its_own_warnings() {
        let warning = Diagnostic::warning(Rule::UndefinedVar, Span::default(), "x");
        let strict = CheckOptions::parse("error=true").expect("valid");
        assert!(refusal(&strict, std::slice::from_ref(&warning)).is_some());
        assert!(refusal(&strict, &[]).is_none());
        assert!(refusal(&CheckOptions::default(), &[warning]).is_none());
    }
}
