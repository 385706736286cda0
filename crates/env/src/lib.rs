//! The only door to time, randomness and fresh ids.
//!
//! **Invariant:** no other crate reads a clock or draws a random number; `clippy.toml` bans the calls. What must be the same on
//! every server, or the same again in a simulation, receives its times and ids from a caller that got them here.

mod seeded;
mod system;

use gantry_model::{DataId, DurationMs, NodeId, ReplicaId, ServerId, ServiceId, SessionId, Timestamp, TokenId};

pub use seeded::Seeded;
pub use system::System;

/// Clock, randomness and ids.
pub trait Env: Send + Sync {
    /// Wall clock time, UTC, for records and people; it may jump.
    fn now(&self) -> Timestamp;

    /// Time since an arbitrary point that never jumps back, for timeouts and leases. Includes time asleep.
    fn monotonic(&self) -> DurationMs;

    /// The same in microseconds, for measuring; a clock without them counts in thousands.
    fn monotonic_us(&self) -> u64 {
        self.monotonic().0.saturating_mul(1000)
    }

    /// Fills the buffer with random bytes fit for secrets.
    fn fill_random(&self, buffer: &mut [u8]);

    /// A random number.
    fn random_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill_random(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A random number below `bound` (which must not be 0; 0 gives 0); the bias is below 2⁻³² for bounds below 2³².
    fn random_below(&self, bound: u64) -> u64 {
        self.random_u64().checked_rem(bound).unwrap_or(0)
    }
}

macro_rules! fresh {
    ($($method:ident -> $id:ident),* $(,)?) => {
        /// Fresh ids, drawn from an [`Env`].
        pub trait FreshIds: Env {
            $(
                #[doc = concat!("A fresh [`", stringify!($id), "`].")]
                fn $method(&self) -> $id {
                    $id(self.random_u64())
                }
            )*
        }

        impl<E: Env + ?Sized> FreshIds for E {}
    };
}

fresh! {
    node_id -> NodeId,
    server_id -> ServerId,
    service_id -> ServiceId,
    replica_id -> ReplicaId,
    data_id -> DataId,
    token_id -> TokenId,
    session_id -> SessionId,
}
