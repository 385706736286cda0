//! Tests of the planner over real states: one binary, one module per concern, one cluster in memory for all.

mod autoscale;
mod budgets;
mod cron;
mod depends;
mod drains;
mod global;
mod job_ends;
mod jobs;
mod reaping;
mod rollouts;
mod simulation;
mod stages;
mod stateful;
mod status;
mod world;
