//! SSH agents for `RUN --mount=type=ssh`: connections of the container, joined with the person's agent.

use std::collections::HashMap;
use std::path::PathBuf;

use gantry_api::v1::build_input::Input;
use gantry_api::v1::{BuildInput, SshData};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

/// Messages of one connection on their way to the agent. An agent answers each question before the next.
const MESSAGES_MAX: usize = 16;

/// Largest message of the agent protocol that OpenSSH takes.
const MESSAGE_BYTES: usize = 256 * 1024;

/// The id of `ID` or `ID=SOCKET`.
pub fn id_of(given: &str) -> &str {
    given.split_once('=').map_or(given, |(id, _)| id)
}

/// The person's agents and the connections to them.
pub struct Agents {
    sockets: HashMap<String, PathBuf>,
    connections: HashMap<u32, mpsc::Sender<bytes::Bytes>>,
    inputs: mpsc::Sender<BuildInput>,
}

impl Agents {
    /// From `--ssh` options; without a path it is the agent of the environment.
    pub fn new(given: &[String], inputs: mpsc::Sender<BuildInput>) -> Self {
        let own = std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from);
        let socket = |given: &String| {
            let path = given
                .split_once('=')
                .map(|(_, path)| PathBuf::from(path))
                .or_else(|| own.clone());
            Some((id_of(given).to_string(), path?))
        };
        Self {
            sockets: given.iter().filter_map(socket).collect(),
            connections: HashMap::new(),
            inputs,
        }
    }

    /// What a connection of the container says.
    pub async fn apply(&mut self, data: SshData) {
        if data.closed {
            self.connections.remove(&data.connection);
            return;
        }
        if !data.id.is_empty() && !self.connections.contains_key(&data.connection) {
            let connected = match self.sockets.get(&data.id) {
                Some(path) => UnixStream::connect(path).await.ok(),
                None => None,
            };
            let Some(stream) = connected else {
                close(&self.inputs, data.connection).await;
                return;
            };
            let (read, write) = stream.into_split();
            let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
            self.connections.insert(data.connection, sender);
            tokio::spawn(answers(read, data.connection, self.inputs.clone()));
            tokio::spawn(questions(write, receiver));
        }
        if let Some(connection) = self.connections.get(&data.connection).filter(|_| !data.data.is_empty()) {
            // The agent has gone: its closing is on the way.
            let _ = connection.send(data.data).await;
        }
    }
}

async fn close(inputs: &mpsc::Sender<BuildInput>, connection: u32) {
    let data = SshData {
        connection,
        closed: true,
        ..SshData::default()
    };
    let _ = inputs
        .send(BuildInput {
            input: Some(Input::Ssh(data)),
        })
        .await;
}

async fn questions(mut agent: OwnedWriteHalf, mut messages: mpsc::Receiver<bytes::Bytes>) {
    while let Some(message) = messages.recv().await {
        if agent.write_all(&message).await.is_err() {
            return;
        }
    }
}

async fn answers(mut agent: OwnedReadHalf, connection: u32, inputs: mpsc::Sender<BuildInput>) {
    let mut buffer = vec![0; MESSAGE_BYTES];
    while let Ok(count @ 1..) = agent.read(&mut buffer).await {
        let data = SshData {
            connection,
            data: buffer[..count].to_vec().into(),
            ..SshData::default()
        };
        if inputs
            .send(BuildInput {
                input: Some(Input::Ssh(data)),
            })
            .await
            .is_err()
        {
            return;
        }
    }
    close(&inputs, connection).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    fn data(id: &str, bytes: &'static [u8]) -> SshData {
        SshData {
            connection: 3,
            id: id.to_string(),
            data: bytes.into(),
            closed: false,
        }
    }

    async fn next(inputs: &mut mpsc::Receiver<BuildInput>) -> SshData {
        match inputs.recv().await.and_then(|input| input.input) {
            Some(Input::Ssh(data)) => data,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn questions_reach_the_agent_and_answers_come_back() {
        let place = tempfile::tempdir().expect("a folder");
        let path = place.path().join("agent");
        let listener = UnixListener::bind(&path).expect("bound");
        let (sender, mut inputs) = mpsc::channel(4);
        let mut agents = Agents::new(&[format!("deploy={}", path.display())], sender);
        agents.apply(data("deploy", b"list")).await;
        let (mut agent, _) = listener.accept().await.expect("connected");
        let mut question = [0; 4];
        agent.read_exact(&mut question).await.expect("asked");
        assert_eq!(&question, b"list");
        agent.write_all(b"keys").await.expect("answered");
        assert_eq!(&next(&mut inputs).await.data[..], b"keys");
        drop(agent);
        assert!(next(&mut inputs).await.closed);
    }

    #[tokio::test]
    async fn an_unknown_agent_closes_the_connection() {
        let (sender, mut inputs) = mpsc::channel(4);
        let mut agents = Agents::new(&[], sender);
        agents.apply(data("other", b"list")).await;
        assert!(next(&mut inputs).await.closed);
        assert_eq!(id_of("deploy=/x"), "deploy");
    }
}
