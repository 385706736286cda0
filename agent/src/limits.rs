//! Limits and waits of an agent, together.

use gantry_model::{ByteSize, DurationMs};

/// Messages from the leader that wait to be taken in. A full queue makes the session read no further, which the leader sees.
pub const INCOMING: usize = 16;
/// Messages to the leader that wait to be sent. When it is full the leader does not read, and the session is given up.
pub const OUTGOING: usize = 64;
/// Reports in one message: at some 300 bytes each, well under the 4 MiB that gRPC takes.
pub const STATUSES_PER_MESSAGE: usize = 1000;
/// How long the first of several reports waits for others; far below what anybody notices, enough for a burst to share a
/// message, and with it an entry of the leader's log.
pub const COALESCE: DurationMs = DurationMs(5);
/// Longest wait before the first try to reach a server again; the wait is random, so that a restarted leader does not meet
/// all agents in one moment.
pub const RECONNECT_FIRST_MAX: DurationMs = DurationMs(200);
/// Longest wait between two tries.
pub const RECONNECT_MAX: DurationMs = DurationMs(2_000);
/// Opening a session, its welcome included, takes at most so long.
pub const OPEN_TIMEOUT: DurationMs = DurationMs(5_000);
/// How many hints at another leader are followed at once, before a wait.
pub const LEADER_HINTS_MAX: u32 = 3;
/// The set is written to disk at most this often; it is needed only when the agent starts while no server answers.
pub const SET_SAVE_INTERVAL: DurationMs = DurationMs(1_000);
/// When the agent ends, requests that its ingress is passing on may take so long to finish; those who come meanwhile are refused.
pub const INGRESS_DRAIN: DurationMs = DurationMs(5_000);
/// A saved set may name replicas that have stopped since: the ingress of an agent that was started anew waits so long for a
/// leader's word before it goes by one.
pub const INGRESS_RESUME: DurationMs = DurationMs(2_000);
/// Wait before a data path that could not be applied is tried again.
pub const DATAPATH_RETRY: DurationMs = DurationMs(500);
/// After a repair of the data path the next one waits so long, so that a quarrel with another program over the same things does
/// not eat the machine.
pub const DATAPATH_REPAIR_PAUSE: DurationMs = DurationMs(200);
/// The data path is brought back to what it should be this often, whatever others did to it and whether or not it was noticed.
pub const DATAPATH_HEAL_INTERVAL: DurationMs = DurationMs(60_000);
/// Tries to release a replica's network and root before its address is given back all the same.
pub const RELEASE_ATTEMPTS: u32 = 5;
/// Wait between two such tries.
pub const RELEASE_RETRY: DurationMs = DurationMs(200);
/// How often the connections of a replica that is to stop are looked at; a look costs a thread and two questions to the kernel.
pub const CONNECTIONS_LOOK: DurationMs = DurationMs(50);
/// No connection has to be in use for so long before a server is told to stop. A packet that another node sent on its way before
/// it acknowledged the end of the endpoint may still wait in a queue of a busy kernel; 10 ms were seen on two busy cores.
pub const CONNECTIONS_SETTLE: DurationMs = DurationMs(100);
/// What stops sooner than this is not worth a message.
pub const CONNECTIONS_TELL: DurationMs = DurationMs(1_000);
/// Longest wait for the last bytes of a container that has ended; clients that are gone never acknowledge theirs.
pub const LINGER_MAX: DurationMs = DurationMs(2_000);
/// How often a started program without a health check is asked whether it accepts connections yet.
pub const LISTEN_LOOK: DurationMs = DurationMs(20);
/// A program that has not bound its published ports by then is taken for ready, as it would be at once elsewhere.
pub const LISTEN_MAX: DurationMs = DurationMs(10_000);
/// A worker whose operation crashed looks again at what is there after so long.
pub const WORKER_RECOVERY_WAIT: DurationMs = DurationMs(1_000);
/// When the agent ends, starts under way may take so long to finish.
pub const SHUTDOWN_GRACE: DurationMs = DurationMs(5_000);
/// Most that is kept of a health check's output; as in Docker.
pub const PROBE_OUTPUT_MAX: usize = 4096;
/// Bytes of a blob or archive in one message.
pub const CHUNK_BYTES: usize = 256 * 1024;
/// A node that holds an image must answer, and go on sending, within so long; then another one is asked.
pub const BLOB_TIMEOUT: DurationMs = DurationMs(20_000);
/// Large blobs that a node sends to other nodes at once: so many fill a link, and more would only make each of them slower. A node
/// that is refused asks another one, or waits until somebody else has got the image.
pub const BLOB_READERS_MAX: usize = 6;
/// Blobs up to this size are sent however much is sent already: manifests and configurations.
pub const BLOB_SMALL_BYTES: u64 = 1 << 20;
/// Blobs of one image that are fetched side by side.
pub const FETCHES_MAX: usize = 3;
/// How often the holders of an image are asked when all of them send as much as they can; with the pauses, some minutes.
pub const FETCH_ROUNDS_MAX: usize = 400;
/// Pause between two such rounds; up to twice as much, at random, so that waiting nodes do not come back together.
pub const FETCH_PAUSE: DurationMs = DurationMs(400);
/// What arrives from other nodes is safe from collection for so long.
pub const FETCH_LEASE: DurationMs = DurationMs(3_600_000);
/// Uploads, and uploaded blobs that no manifest needs, are kept so long.
pub const UPLOAD_KEPT: DurationMs = DurationMs(24 * 3_600_000);
/// Longest wait for a server to say which nodes have an image; then its registry is asked.
pub const LOCATE_TIMEOUT: DurationMs = DurationMs(3_000);
/// Set aside for the machine itself when the configuration says nothing: the agent and its shims (about 2 MiB each).
pub const RESERVE_MEMORY_DEFAULT: ByteSize = ByteSize::mib(128);
/// Longest name of a link (`IFNAMSIZ` without the final zero, linux/if.h).
pub const LINK_NAME_MAX: usize = 15;
/// Smallest pool of containers run by hand: network, gateway, one container and broadcast.
pub const LOCAL_POOL_SIZE_MIN: u64 = 4;
/// A name that was made here is told to the cluster again after so long, when that did not work at once.
pub const NAMES_AFTER: DurationMs = DurationMs(2_000);
/// A name that the cluster does not take, because it means something else by it, is offered again after so long.
pub const NAMES_AGAIN_AFTER: DurationMs = DurationMs(60_000);
/// The disk is looked at this often; it is collected only when it runs short.
pub const COLLECT_INTERVAL: DurationMs = DurationMs(300_000);

/// How often replicas are measured whose services are scaled by what they use; the leader looks at them as often.
pub const USAGE_INTERVAL: DurationMs = DurationMs(5_000);

const _: () = assert!(RECONNECT_FIRST_MAX.0 < RECONNECT_MAX.0);
const _: () = assert!(COALESCE.0 <= 10, "a report is not to be held back noticeably");
