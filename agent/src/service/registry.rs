//! Pull and push: images between this node's store and registries, with progress for whoever asked.
//!
//! **Invariant:** when the caller hangs up, the transfer ends; what came of it is kept for the next one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gantry_api::v1::{ImportImageReply, PullImageRequest, PushImageRequest, TransferProgress};
use gantry_distribution::{
    Client, Keychain, Options, Platforms, Progress, PullRequest, PushRequest, Step, parse_platform,
};
use gantry_env::Env;
use gantry_image::{ImageInfo, Store};
use gantry_model::build::RegistryAuth;
use gantry_model::{Class, Digest, ImageReference, Problem};
use gantry_rpc::status::from_problem;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

use super::{Answers, STREAM_WAITING};
use crate::drivers::blocking;
use crate::drivers::images::{NodeImages, wire_info};

/// How this machine's operator says that registries are reached.
const SETTINGS: &str = "/etc/gantry/registries.json";
/// The platform that means all of them.
const ALL_PLATFORMS: &str = "all";

/// Transfers of one node; clones share connections, tokens and the limits of concurrent transfers.
#[derive(Clone)]
pub(crate) struct Registries {
    options: Options,
    env: Arc<dyn Env>,
    client: Client,
    images: NodeImages,
    node: String,
}

impl Registries {
    /// For the store of `images`, with the machine's settings.
    pub(crate) fn new(images: NodeImages, env: Arc<dyn Env>, node: String) -> Result<Self, Problem> {
        let options = Options::read(Path::new(SETTINGS))?;
        Ok(Self {
            client: Client::new(options.clone(), Arc::clone(&env)),
            options,
            env,
            images,
            node,
        })
    }

    /// Brings images into the store; the last answer says which.
    pub(crate) fn pull(&self, request: PullImageRequest) -> Result<Answers<TransferProgress>, Problem> {
        let transfer = self.transfer(&request.reference, &request.registry_auth_json, request.plain_http)?;
        Ok(self.answer(async move |progress| transfer.pull(&request, progress).await))
    }

    /// Sends images of the store; the last answer says which.
    pub(crate) fn push(&self, request: PushImageRequest) -> Result<Answers<TransferProgress>, Problem> {
        let transfer = self.transfer(&request.reference, &request.registry_auth_json, request.plain_http)?;
        Ok(self.answer(async move |progress| transfer.push(&request, progress).await))
    }

    fn transfer(&self, reference: &str, auth_json: &[u8], plain_http: bool) -> Result<Transfer, Problem> {
        let reference: ImageReference = reference
            .parse()
            .map_err(|error| Problem::new(Class::Invalid, "image reference", format!("{error}")))?;
        let client = if plain_http {
            let mut options = self.options.clone();
            options.plain_http.insert(reference.registry().to_string());
            Client::new(options, Arc::clone(&self.env))
        } else {
            self.client.clone()
        };
        Ok(Transfer {
            client,
            keychain: keychain(auth_json)?,
            images: self.images.clone(),
            reference,
        })
    }

    /// Runs a transfer on a task of its own, and passes on what it tells.
    fn answer<W, F>(&self, work: W) -> Answers<TransferProgress>
    where
        W: FnOnce(Arc<Board>) -> F + Send + 'static,
        F: Future<Output = Result<Vec<ImageInfo>, Problem>> + Send + 'static,
    {
        let (sender, answers) = mpsc::channel(STREAM_WAITING);
        let node = self.node.clone();
        tokio::spawn(async move {
            let board = Arc::new(Board::default());
            // Dropped with this task, when the caller has hung up.
            let mut running = JoinSet::new();
            let work = work(Arc::clone(&board));
            let closing = Arc::clone(&board);
            running.spawn(async move {
                let outcome = work.await;
                closing.close();
                outcome
            });
            while let Some(step) = board.next().await {
                if sender.send(Ok(wire(step))).await.is_err() {
                    return;
                }
            }
            let outcome = running.join_next().await;
            let last = match outcome.expect("one was spawned") {
                Ok(Ok(images)) => Ok(finished(&images, node)),
                Ok(Err(problem)) => Err(from_problem(&problem)),
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            };
            // Nobody is told when the other end has hung up.
            drop(sender.send(last).await);
        });
        ReceiverStream::new(answers)
    }
}

/// One pull or push.
struct Transfer {
    client: Client,
    keychain: Keychain,
    images: NodeImages,
    reference: ImageReference,
}

impl Transfer {
    async fn pull(&self, request: &PullImageRequest, progress: Arc<Board>) -> Result<Vec<ImageInfo>, Problem> {
        let one = match request.platform.as_str() {
            "" | ALL_PLATFORMS => None,
            platform => {
                let parsed = parse_platform(platform);
                Some(parsed.map_err(|error| Problem::new(Class::Invalid, "platform", error.to_string()))?)
            }
        };
        let platforms = match &one {
            Some(platform) => Platforms::One(platform),
            None if request.platform == ALL_PLATFORMS => Platforms::All,
            None => Platforms::Own,
        };
        let mut pulled = Vec::new();
        for reference in self.references(request.all_tags).await? {
            let held = self.store().resolve(&reference).filter(|_| request.only_missing);
            let image = match held {
                Some(image) => image,
                None => self.pull_one(&reference, platforms, progress.as_ref()).await?,
            };
            pulled.push(self.info(image).await?);
        }
        self.images.refresh();
        Ok(pulled)
    }

    async fn pull_one(
        &self,
        reference: &ImageReference,
        platforms: Platforms<'_>,
        progress: &Board,
    ) -> Result<Digest, Problem> {
        let request = PullRequest {
            reference,
            platforms,
            keychain: &self.keychain,
            unpack: true,
        };
        let pulled = self.client.pull(self.store(), request, progress).await?;
        Ok(pulled.image)
    }

    async fn push(&self, request: &PushImageRequest, progress: Arc<Board>) -> Result<Vec<ImageInfo>, Problem> {
        let references = if request.all_tags {
            self.held_references().await?
        } else {
            vec![self.reference.clone()]
        };
        let mut pushed = Vec::new();
        for reference in references {
            let request = PushRequest {
                reference: &reference,
                image: None,
                keychain: &self.keychain,
            };
            let sent = self.client.push(self.store(), request, progress.as_ref()).await?;
            let mut info = self.info(sent.digest).await?;
            // Of an index, the digest that others can pull by.
            info.digest = sent.digest;
            info.references = vec![reference];
            pushed.push(info);
        }
        Ok(pushed)
    }

    /// What to pull: the reference, or one for each tag of its repository.
    async fn references(&self, all_tags: bool) -> Result<Vec<ImageReference>, Problem> {
        if !all_tags {
            return Ok(vec![self.reference.clone()]);
        }
        let tags = self.client.tags(&self.reference, &self.keychain).await?;
        let repository = format!("{}/{}", self.reference.registry(), self.reference.repository());
        let references = tags.iter().map(|tag| format!("{repository}:{tag}").parse());
        references
            .collect::<Result<_, _>>()
            .map_err(|error| Problem::new(Class::Invalid, format!("tags of {repository}"), format!("{error}")))
    }

    /// The names of the repository that this node has.
    async fn held_references(&self) -> Result<Vec<ImageReference>, Problem> {
        let store = Arc::clone(self.store());
        let wanted = self.reference.clone();
        let held: Vec<_> = blocking(move || {
            let all = store.list().into_iter().flat_map(|image| image.references);
            all.filter(|held| held.registry() == wanted.registry() && held.repository() == wanted.repository())
                .collect()
        })
        .await;
        if held.is_empty() {
            let name = self.reference.familiar_repository();
            return Err(
                Problem::new(Class::NotFound, format!("image {name}"), "no tag of it is on this node")
                    .remedy("see gantry image ls"),
            );
        }
        Ok(held)
    }

    async fn info(&self, image: Digest) -> Result<ImageInfo, Problem> {
        let store = Arc::clone(self.store());
        blocking(move || store.info(image)).await.map_err(Problem::from)
    }

    fn store(&self) -> &Arc<Store> {
        self.images.store()
    }
}

/// The credentials that came along.
fn keychain(json: &[u8]) -> Result<Keychain, Problem> {
    if json.is_empty() {
        return Ok(Keychain::default());
    }
    let by_host: BTreeMap<String, RegistryAuth> = serde_json::from_slice(json)
        // The reason would quote what is secret.
        .map_err(|_| Problem::new(Class::Invalid, "registry credentials", "are not credentials by host"))?;
    Ok(Keychain::new(by_host))
}

fn wire(step: Step) -> TransferProgress {
    TransferProgress {
        what: step.what,
        phase: step.phase.as_str().to_string(),
        current: step.current,
        total: step.total,
        message: step.message,
        result: None,
    }
}

fn finished(images: &[ImageInfo], node: String) -> TransferProgress {
    TransferProgress {
        phase: "done".to_string(),
        result: Some(ImportImageReply {
            images: images.iter().map(wire_info).collect(),
            node,
        }),
        ..TransferProgress::default()
    }
}

/// The latest step of every layer that its reader has not seen: a slow reader misses steps in between, never the last one, and
/// holds nothing up.
#[derive(Debug, Default)]
struct Board {
    news: Mutex<News>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct News {
    steps: Vec<Step>,
    is_closed: bool,
}

impl Board {
    /// The next news; none once all is told and nothing more comes.
    async fn next(&self) -> Option<Step> {
        loop {
            let changed = self.changed.notified();
            {
                let mut news = self.news();
                if !news.steps.is_empty() {
                    return Some(news.steps.remove(0));
                }
                if news.is_closed {
                    return None;
                }
            }
            changed.await;
        }
    }

    fn close(&self) {
        self.news().is_closed = true;
        self.changed.notify_one();
    }

    /// A panicking holder leaves the list whole.
    fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Board {
    fn step(&self, step: Step) {
        let mut news = self.news();
        match news.steps.iter_mut().find(|known| known.what == step.what) {
            Some(known) => *known = step,
            None => news.steps.push(step),
        }
        drop(news);
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use gantry_distribution::Phase;

    use super::*;

    fn step(what: &str, current: u64) -> Step {
        Step {
            what: what.to_string(),
            phase: Phase::Downloading,
            current,
            total: 10,
            message: String::new(),
        }
    }

    #[tokio::test]
    async fn a_slow_reader_gets_the_latest_of_every_layer() {
        let board = Arc::new(Board::default());
        for current in 0..10 {
            board.step(step("a", current));
            board.step(step("b", current));
        }
        board.close();
        assert_eq!(board.next().await, Some(step("a", 9)));
        assert_eq!(board.next().await, Some(step("b", 9)));
        assert_eq!(board.next().await, None);
    }

    #[tokio::test]
    async fn news_wake_the_reader() {
        let board = Arc::new(Board::default());
        let reader = {
            let board = Arc::clone(&board);
            tokio::spawn(async move { board.next().await })
        };
        tokio::task::yield_now().await;
        board.step(step("a", 1));
        assert_eq!(reader.await.expect("it ends"), Some(step("a", 1)));
    }

    #[test]
    fn bad_credentials_are_not_quoted() {
        let problem = keychain(br#"{"r": {"basic": {"user": "u", "pass": "hunter2"}}}"#).expect_err("no password");
        assert!(!problem.to_string().contains("hunter2"));
        assert!(keychain(b"").is_ok());
        let good = keychain(br#"{"r:5000": {"basic": {"user": "u", "password": "p"}}}"#).expect("credentials");
        assert!(good.get("r:5000").is_some());
    }
}
