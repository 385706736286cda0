//! A Dockerfile as text again: continuations joined, one instruction a line.
//!
//! **Invariant:** what is shown reads as the same instructions.

use std::fmt::{self, Display, Formatter};

use crate::ast::{Dockerfile, Instruction};

impl Display for Dockerfile {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        if let Some(syntax) = &self.directives.syntax {
            writeln!(formatter, "# syntax={}", syntax.text)?;
        }
        if self.directives.escape != '\\' {
            writeln!(formatter, "# escape={}", self.directives.escape)?;
        }
        // Comments after this line are no directives.
        writeln!(formatter)?;
        for instruction in &self.arguments {
            instruction.fmt(formatter)?;
        }
        for stage in &self.stages {
            writeln!(formatter)?;
            stage.from.fmt(formatter)?;
            for instruction in &stage.instructions {
                instruction.fmt(formatter)?;
            }
        }
        Ok(())
    }
}

impl Display for Instruction {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        for comment in &self.comments {
            writeln!(formatter, "# {}", comment.text)?;
        }
        writeln!(formatter, "{}", self.text)?;
        for document in &self.heredocs {
            writeln!(formatter, "{}{}", document.content, document.name)?;
        }
        Ok(())
    }
}
