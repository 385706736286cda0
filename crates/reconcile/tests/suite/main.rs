//! Tests of the planner over real states: one binary, one module per concern, one cluster in memory for all.

mod depends;
mod drains;
mod global;
mod jobs;
mod reaping;
mod rollouts;
mod simulation;
mod stages;
mod status;
mod world;
