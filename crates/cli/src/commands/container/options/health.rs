//! The health check.

use clap::Args;
use gantry_model::spec::{ContainerSpec, HealthCheck, HealthTest};
use gantry_model::{Class, DurationMs, Problem};

use super::wrong;

// How to find out whether it is well.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Health")]
pub struct HealthOptions {
    /// Line for its shell; exit status 0 is healthy
    #[arg(long, value_name = "COMMAND")]
    health_cmd: Option<String>,
    /// Time between two checks [default: 30s]
    #[arg(long, value_name = "DURATION")]
    health_interval: Option<String>,
    /// A check that takes longer has failed [default: 30s]
    #[arg(long, value_name = "DURATION")]
    health_timeout: Option<String>,
    /// Failures in a row that make it unhealthy [default: 3]
    #[arg(long, value_name = "COUNT")]
    health_retries: Option<u32>,
    /// Failures this soon after the start do not count [default: 0s]
    #[arg(long, value_name = "DURATION")]
    health_start_period: Option<String>,
    /// Time between two checks during the start period [default: 5s]
    #[arg(long, value_name = "DURATION")]
    health_start_interval: Option<String>,
    /// No check, even if the image has one
    #[arg(long, conflicts_with = "health_cmd")]
    no_healthcheck: bool,
}

impl HealthOptions {
    pub(super) fn apply(&self, container: &mut ContainerSpec) -> Result<(), Problem> {
        let durations = [
            ("--health-interval", &self.health_interval),
            ("--health-timeout", &self.health_timeout),
            ("--health-start-period", &self.health_start_period),
            ("--health-start-interval", &self.health_start_interval),
        ];
        let mut read = [None; 4];
        for (slot, (option, text)) in read.iter_mut().zip(durations) {
            *slot = text.as_deref().map(|text| duration(option, text)).transpose()?;
        }
        if self.no_healthcheck {
            container.healthcheck = Some(HealthCheck::with_defaults(HealthTest::Disabled));
            return Ok(());
        }
        let Some(line) = &self.health_cmd else {
            if read.iter().any(Option::is_some) || self.health_retries.is_some() {
                return Err(
                    Problem::new(Class::Invalid, "--health-cmd", "is missing beside other health options")
                        .remedy("say with --health-cmd how to check"),
                );
            }
            return Ok(());
        };
        let mut check = HealthCheck::with_defaults(HealthTest::Shell(line.clone()));
        let [interval, timeout, start_period, start_interval] = read;
        let take = |target: &mut DurationMs, value: Option<DurationMs>| *target = value.unwrap_or(*target);
        take(&mut check.interval, interval);
        take(&mut check.timeout, timeout);
        take(&mut check.start_period, start_period);
        take(&mut check.start_interval, start_interval);
        check.retries = self.health_retries.unwrap_or(check.retries);
        container.healthcheck = Some(check);
        Ok(())
    }
}

fn duration(option: &str, text: &str) -> Result<DurationMs, Problem> {
    text.parse()
        .map_err(|error| wrong(option, text, error, "write a duration, such as 30s or 1m30s"))
}
