//! A registry over raw sockets, so that it can break every rule of HTTP and of the distribution specification.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use gantry_model::Digest;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Barrier, Semaphore};

use crate::image::{Image, digest_of};

/// What goes wrong with one answer.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Another answer altogether.
    Answer(u16, Vec<(&'static str, String)>, &'static str),
    /// 403, once the test has added a permit.
    RefuseAfter(Arc<Semaphore>),
    /// The connection ends after this many bytes of the body.
    TruncateAt(usize),
    /// Nothing more comes after this many bytes of the body.
    StallAt(usize),
    /// Nothing comes at all.
    Silence,
    /// The connection ends without an answer.
    Hangup,
    /// Other bytes of the same length.
    WrongBytes,
    /// Announces so many bytes more than there are.
    LieAboutLength(usize),
    /// All of it, whatever part was asked for.
    IgnoreRange,
    /// Takes this many bytes of what is sent, then ends the connection.
    HangupInUpload(usize),
    /// As it should be; uses up its turn.
    Fine,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub headers: BTreeMap<String, String>,
    pub body_len: usize,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// `METHOD /path` without the query.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.target.split('?').next().unwrap_or_default())
    }
}

/// Time for a client to ask for more than it should; a good one is only held up by it.
const GRACE: Duration = Duration::from_millis(30);

type Answerer = dyn Fn(&Seen) -> Option<Answer> + Send + Sync;

#[derive(Default)]
struct State {
    blobs: HashMap<(String, String), Vec<u8>>,
    manifests: HashMap<(String, String), (String, Vec<u8>)>,
    uploads: HashMap<String, Vec<u8>>,
    next_upload: usize,
    faults: Vec<(String, Fault)>,
    seen: Vec<Seen>,
    answerer: Option<Arc<Answerer>>,
    gate: Option<(Arc<Barrier>, Digest)>,
    /// Downloads that were asked for and not answered yet, and the most there were.
    open: usize,
    open_max: usize,
}

/// The registry; its task ends with the test's runtime.
#[derive(Clone)]
pub struct Fake {
    port: u16,
    state: Arc<Mutex<State>>,
}

/// What is sent back.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn new(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_string(), value.into()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}

impl Fake {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback takes listeners");
        let port = listener.local_addr().expect("it is bound").port();
        let fake = Self {
            port,
            state: Arc::default(),
        };
        let server = fake.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = server.clone();
                // A client that goes away is no concern of the registry's.
                tokio::spawn(async move { server.serve(stream).await.ok() });
            }
        });
        fake
    }

    pub fn name(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.name())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    /// Has an image.
    pub fn hold(&self, repository: &str, tag: &str, image: &Image) {
        let mut state = self.state();
        for (digest, bytes) in &image.blobs {
            state
                .blobs
                .insert((repository.into(), digest.to_string()), bytes.clone());
        }
        let entry = (image.media_type.clone(), image.manifest.clone());
        state
            .manifests
            .insert((repository.into(), image.digest().to_string()), entry.clone());
        state.manifests.insert((repository.into(), tag.into()), entry);
    }

    /// Has a document under a name.
    pub fn hold_manifest(&self, repository: &str, name: &str, media_type: &str, bytes: &[u8]) {
        let mut state = self.state();
        let entry = (media_type.to_string(), bytes.to_vec());
        state
            .manifests
            .insert((repository.into(), digest_of(bytes).to_string()), entry.clone());
        state.manifests.insert((repository.into(), name.into()), entry);
    }

    pub fn manifest(&self, repository: &str, name: &str) -> Option<Vec<u8>> {
        let manifests = &self.state().manifests;
        manifests
            .get(&(repository.into(), name.into()))
            .map(|(_, bytes)| bytes.clone())
    }

    pub fn blob(&self, repository: &str, digest: Digest) -> Option<Vec<u8>> {
        self.state()
            .blobs
            .get(&(repository.into(), digest.to_string()))
            .cloned()
    }

    /// The next request whose `METHOD /path` contains `part` meets this fault; several wait in line.
    pub fn fault(&self, part: impl Into<String>, fault: Fault) {
        self.state().faults.push((part.into(), fault));
    }

    /// Answers before everything else, where it has an answer.
    pub fn answer_with(&self, answerer: impl Fn(&Seen) -> Option<Answer> + Send + Sync + 'static) {
        self.state().answerer = Some(Arc::new(answerer));
    }

    /// Holds downloads back until this many have been asked for, but for one that comes alone.
    pub fn answer_blobs_by(&self, count: usize, alone: Digest) {
        self.state().gate = Some((Arc::new(Barrier::new(count)), alone));
    }

    /// The most downloads that waited for an answer at once.
    pub fn blobs_at_once(&self) -> usize {
        self.state().open_max
    }

    /// Counts a download, and waits until enough others have come, and a little for one too many.
    async fn wait_at_gate(&self, target: &str) {
        let gate = {
            let mut state = self.state();
            state.open += 1;
            state.open_max = state.open_max.max(state.open);
            state.gate.clone()
        };
        if let Some((gate, alone)) = gate
            && !target.ends_with(&alone.hex())
        {
            gate.wait().await;
            tokio::time::sleep(GRACE).await;
        }
        self.state().open -= 1;
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    /// Requests whose `METHOD /path` contains `part`.
    pub fn seen_with(&self, part: &str) -> Vec<Seen> {
        self.seen()
            .into_iter()
            .filter(|seen| seen.line().contains(part))
            .collect()
    }

    async fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        let Some(mut seen) = read_head(&mut stream).await? else {
            // Not HTTP: what Go's server says to a TLS greeting.
            stream
                .write_all(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTPS request")
                .await?;
            return Ok(());
        };
        let fault = {
            let mut state = self.state();
            let line = seen.line();
            let at = state.faults.iter().position(|(part, _)| line.contains(part.as_str()));
            at.map_or(Fault::Fine, |at| state.faults.remove(at).1)
        };
        let length = seen
            .header("content-length")
            .and_then(|length| length.parse().ok())
            .unwrap_or(0);
        let mut body = Vec::new();
        if let Fault::HangupInUpload(bytes) = fault {
            (&mut stream).take(bytes as u64).read_to_end(&mut body).await?;
            self.append(&seen, &body);
            seen.body_len = body.len();
            self.state().seen.push(seen);
            return Ok(());
        }
        (&mut stream).take(length).read_to_end(&mut body).await?;
        seen.body_len = body.len();
        let answer = self.answer(&seen, &body, matches!(fault, Fault::IgnoreRange));
        self.state().seen.push(seen.clone());
        if seen.line().starts_with("GET ") && seen.target.contains("/blobs/sha256:") {
            self.wait_at_gate(&seen.target).await;
        }
        send(&mut stream, &seen, answer, &fault).await
    }

    fn append(&self, seen: &Seen, body: &[u8]) {
        let id = seen
            .target
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .split('?')
            .next()
            .unwrap_or_default();
        if let Some(upload) = self.state().uploads.get_mut(id) {
            upload.extend_from_slice(body);
        }
    }

    fn answer(&self, seen: &Seen, body: &[u8], ignore_range: bool) -> Answer {
        let answerer = self.state().answerer.clone();
        if let Some(answer) = answerer.and_then(|answerer| answerer(seen)) {
            return answer;
        }
        let path = seen.target.split('?').next().unwrap_or_default();
        let Some(rest) = path.strip_prefix("/v2/") else {
            return Answer::new(404)
                .header("Content-Type", "text/html")
                .body("<html>nothing here</html>");
        };
        if rest.is_empty() {
            return Answer::new(200).header("Content-Type", "application/json").body("{}");
        }
        if let Some((repository, id)) = rest.split_once("/blobs/uploads/") {
            return self.upload(seen, repository, id, body);
        }
        if let Some((repository, digest)) = rest.split_once("/blobs/") {
            let found = self.state().blobs.get(&(repository.into(), digest.into())).cloned();
            return found.map_or_else(unknown, |bytes| part_of(bytes, seen, ignore_range));
        }
        if let Some((repository, name)) = rest.split_once("/manifests/") {
            return self.manifests(seen, repository, name, body);
        }
        unknown()
    }

    fn manifests(&self, seen: &Seen, repository: &str, name: &str, body: &[u8]) -> Answer {
        match seen.method.as_str() {
            "PUT" => {
                let media_type = seen.header("content-type").unwrap_or_default();
                self.hold_manifest(repository, name, media_type, body);
                Answer::new(201).header("Docker-Content-Digest", digest_of(body).to_string())
            }
            "DELETE" => {
                let gone = self.state().manifests.remove(&(repository.into(), name.into()));
                gone.map_or_else(unknown, |_| Answer::new(202))
            }
            _ => {
                let found = self.state().manifests.get(&(repository.into(), name.into())).cloned();
                found.map_or_else(unknown, |(media_type, bytes)| {
                    Answer::new(200)
                        .header("Content-Type", media_type)
                        .header("Docker-Content-Digest", digest_of(&bytes).to_string())
                        .body(bytes)
                })
            }
        }
    }

    fn upload(&self, seen: &Seen, repository: &str, id: &str, body: &[u8]) -> Answer {
        let query: HashMap<String, String> = url::Url::parse(&format!("http://h{}", seen.target))
            .map(|url| url.query_pairs().into_owned().collect())
            .unwrap_or_default();
        let mut state = self.state();
        let located = |status, id: &str, len: usize| {
            Answer::new(status)
                .header("Location", format!("/v2/{repository}/blobs/uploads/{id}?state=kept"))
                .header("Range", format!("0-{}", len.saturating_sub(1)))
        };
        match seen.method.as_str() {
            "POST" => {
                if let (Some(digest), Some(from)) = (query.get("mount"), query.get("from"))
                    && let Some(bytes) = state.blobs.get(&(from.clone(), digest.clone())).cloned()
                {
                    state.blobs.insert((repository.into(), digest.clone()), bytes);
                    return Answer::new(201);
                }
                state.next_upload += 1;
                let id = format!("u{}", state.next_upload);
                state.uploads.insert(id.clone(), Vec::new());
                located(202, &id, 0)
            }
            "GET" => state
                .uploads
                .get(id)
                .map_or_else(unknown, |upload| located(204, id, upload.len())),
            "PATCH" => {
                let Some(upload) = state.uploads.get_mut(id) else {
                    return unknown();
                };
                let begins: Option<usize> = seen
                    .header("content-range")
                    .and_then(|range| range.split('-').next()?.parse().ok());
                if begins.unwrap_or(0) != upload.len() {
                    return located(416, id, upload.len());
                }
                upload.extend_from_slice(body);
                located(202, id, upload.len())
            }
            "PUT" => {
                let Some(mut upload) = state.uploads.remove(id) else {
                    return unknown();
                };
                upload.extend_from_slice(body);
                let digest = digest_of(&upload).to_string();
                if query.get("digest") != Some(&digest) || query.get("state").map(String::as_str) != Some("kept") {
                    return Answer::new(400).body(r#"{"errors":[{"code":"DIGEST_INVALID","message":"wrong digest"}]}"#);
                }
                state.blobs.insert((repository.into(), digest), upload);
                Answer::new(201)
            }
            _ => Answer::new(405),
        }
    }
}

fn unknown() -> Answer {
    Answer::new(404)
        .header("Content-Type", "application/json")
        .body(r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#)
}

fn part_of(bytes: Vec<u8>, seen: &Seen, ignore_range: bool) -> Answer {
    let first: Option<usize> = seen
        .header("range")
        .filter(|_| !ignore_range)
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    match first {
        Some(first) if first >= bytes.len() => Answer::new(416),
        Some(first) => {
            let range = format!("bytes {first}-{}/{}", bytes.len() - 1, bytes.len());
            Answer::new(206).header("Content-Range", range).body(&bytes[first..])
        }
        None => Answer::new(200)
            .header("Content-Type", "application/octet-stream")
            .body(bytes),
    }
}

/// The request's head; none when it is not HTTP.
async fn read_head(stream: &mut BufReader<TcpStream>) -> std::io::Result<Option<Seen>> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line).await?;
    let line = String::from_utf8_lossy(&line).into_owned();
    let mut words = line.split_whitespace();
    let (Some(method), Some(target), Some("HTTP/1.1")) = (words.next(), words.next(), words.next()) else {
        return Ok(None);
    };
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.to_string()),
            None => break,
        };
    }
    Ok(Some(Seen {
        method: method.to_string(),
        target: target.to_string(),
        headers,
        body_len: 0,
    }))
}

async fn send(stream: &mut BufReader<TcpStream>, seen: &Seen, answer: Answer, fault: &Fault) -> std::io::Result<()> {
    if let Fault::RefuseAfter(permit) = fault {
        permit.acquire().await.expect("tests do not close it").forget();
    }
    let answer = match fault {
        Fault::RefuseAfter(_) => Answer::new(403).body("{}"),
        Fault::Answer(status, headers, body) => headers
            .iter()
            .fold(Answer::new(*status), |answer, (name, value)| {
                answer.header(name, value.clone())
            })
            .body(*body),
        Fault::WrongBytes => {
            let body = vec![b'x'; answer.body.len()];
            Answer { body, ..answer }
        }
        _ => answer,
    };
    if matches!(fault, Fault::Hangup) {
        return Ok(());
    }
    if matches!(fault, Fault::Silence) {
        return hang().await;
    }
    let announced = match fault {
        Fault::LieAboutLength(more) => answer.body.len() + more,
        _ => answer.body.len(),
    };
    let mut head = format!(
        "HTTP/1.1 {} X\r\nConnection: close\r\nContent-Length: {announced}\r\n",
        answer.status
    );
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await?;
    if seen.method == "HEAD" {
        return Ok(());
    }
    let sent = match fault {
        Fault::TruncateAt(bytes) | Fault::StallAt(bytes) => &answer.body[..(*bytes).min(answer.body.len())],
        _ => &answer.body,
    };
    stream.write_all(sent).await?;
    stream.flush().await?;
    if matches!(fault, Fault::StallAt(_)) {
        return hang().await;
    }
    stream.shutdown().await
}

/// Holds the connection open until the test is over.
async fn hang() -> std::io::Result<()> {
    std::future::pending().await
}
