//! Tables without borders, as Docker prints them.

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table as Drawn};
use serde_json::Value;

/// Spaces between two columns.
const GAP: u16 = 3;

/// What stands where there is nothing to say, so that columns can be counted by programs too.
const EMPTY: &str = "-";

/// A column.
#[derive(Debug, Clone)]
pub struct Column {
    title: &'static str,
    wide: bool,
}

impl Column {
    /// Always shown.
    pub const fn new(title: &'static str) -> Self {
        Self { title, wide: false }
    }

    /// Shown with `-o wide`.
    pub const fn wide(title: &'static str) -> Self {
        Self { title, wide: true }
    }
}

/// A row: cells for people, the object for programs.
#[derive(Debug, Clone)]
pub struct Row {
    /// What `-o name` prints.
    pub name: String,
    /// One cell for each column, wide ones included.
    pub cells: Vec<String>,
    /// The object.
    pub json: Value,
}

/// A list of objects.
#[derive(Debug, Clone)]
pub struct Table {
    columns: Vec<Column>,
    pub rows: Vec<Row>,
}

impl Table {
    /// Without rows.
    pub const fn new(columns: Vec<Column>) -> Self {
        Self {
            columns,
            rows: Vec::new(),
        }
    }

    /// Adds a row with as many cells as there are columns.
    pub fn push<const N: usize, C: Into<String>>(&mut self, name: impl Into<String>, cells: [C; N], json: Value) {
        debug_assert_eq!(N, self.columns.len(), "one cell for each column");
        self.rows.push(Row {
            name: name.into(),
            cells: cells.map(Into::into).into(),
            json,
        });
    }

    /// The text, with a line for the titles.
    pub fn render(&self, wide: bool) -> String {
        let shown = |index: &usize| wide || self.columns.get(*index).is_some_and(|column| !column.wide);
        let indexes: Vec<usize> = (0..self.columns.len()).filter(shown).collect();
        let mut drawn = Drawn::new();
        drawn
            .load_preset(NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled);
        drawn.set_header(indexes.iter().map(|index| self.columns[*index].title));
        for row in &self.rows {
            drawn.add_row(indexes.iter().map(|index| cell(&row.cells[*index])));
        }
        for column in drawn.column_iter_mut() {
            column.set_padding((0, GAP));
        }
        let lines = drawn.to_string();
        lines.lines().map(|line| format!("{}\n", line.trim_end())).collect()
    }
}

/// A cell is one line, whatever a message holds.
fn cell(text: &str) -> String {
    if text.is_empty() {
        return EMPTY.to_string();
    }
    text.replace(['\n', '\r', '\t'], " ")
}
