//! Tests of the planner over real states: one binary, one module per concern, one cluster in memory for all.

mod simulation;
mod world;
