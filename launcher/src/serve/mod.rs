//! The daemon: starts VMs, records what they do, starts them again when they fail, and publishes
//! what they must measure.
//!
//! It can be ended, killed or replaced at any time. Each VM has a supervisor process of its own
//! that does not notice; a daemon that is started again finds them by their locks and goes on.

mod api;
pub mod client;
mod http;
mod keep;
mod look;
mod manager;
mod notify;
mod peer;
mod records;
mod request;
pub mod restart;
pub mod view;
mod vm;
mod wanted;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::confine::Confinement;
use crate::publish::Publisher;
use crate::start::SupervisorCommand;
use crate::state::{StateError, StateRoot};
use manager::{Command, Manager, Parts};
use notify::Manager as ServiceManager;
use records::Records;
use view::HostView;
use wanted::Wanted;

pub(crate) use http::{Answer, Asked, Handler, JSON};
pub(crate) use manager::{Command as ManagerCommand, Reply};
pub use records::{Event, RecordsError};
pub(crate) use vm::Vm;
pub use vm::{Doing, EventKind, Source};
pub use wire::RunRequest;

/// The API's socket below a state root.
pub const SOCKET_FILE: &str = "api.sock";
/// The records' file.
pub const RECORDS_FILE: &str = "records.sqlite";
/// The file whose lock one daemon holds.
const LOCK_FILE: &str = "serve.lock";
/// How long the lock of a daemon that was killed may be held by what it was just starting.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);

/// What clients of the API may do. They are this user or root, so the bounds are against mistakes.
const API_LIMITS: http::Limits = http::Limits {
    connections: 64,
    from_one: 64,
    head: Duration::from_secs(5),
    whole: Duration::from_secs(wire::MAX_WAIT + 30),
    body: wire::MAX_BODY,
};
/// What anyone on the network may do.
const PUBLIC_LIMITS: http::Limits = http::Limits {
    connections: 128,
    from_one: 16,
    head: Duration::from_secs(5),
    whole: Duration::from_secs(30),
    body: 0,
};

/// What the daemon is told.
#[derive(Debug)]
pub struct Settings {
    /// Where VMs have their directories, and the socket.
    pub root: StateRoot,
    /// The directory of the records; it is made when missing.
    pub records: PathBuf,
    /// The API's socket, unless a service manager hands one over.
    pub socket: PathBuf,
    /// The directory of wanted VMs.
    pub wanted: Option<PathBuf>,
    /// Where to publish.
    pub publish: Option<SocketAddr>,
    /// The host under which others reach the VMs' evidence.
    pub public_host: String,
    /// How QEMU is confined.
    pub confinement: Confinement,
    /// What becomes the supervisor of a VM.
    pub supervisor: SupervisorCommand,
}

/// Why the daemon does not work.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another one does.
    #[error("another daemon serves {}: stop it first", path.display())]
    Taken {
        /// Its lock.
        path: PathBuf,
    },
    /// The socket cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// State cannot be kept.
    #[error("cannot keep state")]
    State(#[from] StateError),
    /// Records cannot be kept.
    #[error("cannot keep records")]
    Records(#[from] RecordsError),
    /// The service manager cannot be talked to.
    #[error("cannot talk to the service manager")]
    Notify(#[source] io::Error),
    /// The system lacks something.
    #[error("cannot start the daemon")]
    System(#[source] io::Error),
    /// The thread that manages VMs ended.
    #[error("the thread that manages the VMs ended: see the error before")]
    Managing,
}

/// What is up once the daemon works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Up {
    /// The API's socket.
    pub socket: PathBuf,
    /// Where it publishes.
    pub published_at: Option<SocketAddr>,
}

/// Works until SIGTERM or SIGINT. `up` hears when it does its work.
///
/// # Errors
/// When another daemon works, or something that it needs cannot be had.
pub fn serve(settings: Settings, up: impl FnOnce(&Up)) -> Result<(), ServeError> {
    let service = ServiceManager::from_environment().map_err(ServeError::Notify)?;
    let inherited = notify::inherited().map_err(ServeError::Notify)?;
    crate::state::make_private(&settings.records)?;
    let _lock = peer::lock(&settings.records.join(LOCK_FILE), LOCK_PATIENCE)?;
    let records = Records::open(&settings.records.join(RECORDS_FILE))?;
    settings.root.write_confinement(&settings.confinement)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(8)
        .build()
        .map_err(ServeError::System)?;
    runtime.block_on(work(settings, records, inherited, &service, up))
}

async fn work(
    settings: Settings,
    records: Records,
    inherited: Option<UnixListener>,
    service: &ServiceManager,
    up: impl FnOnce(&Up),
) -> Result<(), ServeError> {
    let (sender, commands) = channel();
    let (changed, heard) = watch::channel(0);
    let manager = Manager::new(Parts {
        root: settings.root.clone(),
        records,
        supervisor: settings.supervisor,
        sender: sender.clone(),
        changed,
        wanted: settings.wanted.as_deref().map(Wanted::new),
        public_host: settings.public_host,
    });
    let publisher = match settings.publish {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let published_at = publisher.as_ref().and_then(|listener| listener.local_addr().ok());
    let handed_over = inherited.is_some();
    let api = peer::listener(inherited, &settings.socket)?;
    let managing = tokio::task::spawn_blocking(move || manager.run(&commands));
    let host = HostView {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        state_root: settings.root.dir().display().to_string(),
        published_at: published_at.map(|address| address.to_string()),
        qemu_user: settings.confinement.user.clone(),
        cgroups: settings.confinement.cgroup.is_some(),
        trouble: None,
        last_event: 0,
    };
    let api_handler =
        api::Api { sender: sender.clone(), changed: heard, root: settings.root, host };
    tokio::spawn(http::serve(api, API_LIMITS, Arc::new(api_handler)));
    if let Some(listener) = publisher {
        let handler = Arc::new(Publisher::new(sender.clone()));
        tokio::spawn(http::serve(listener, PUBLIC_LIMITS, handler));
    }
    let until = until_told(&sender, service, managing, || {
        up(&Up { socket: settings.socket.clone(), published_at });
    });
    let result = until.await;
    if !handed_over {
        // What nobody listens on would only be refused later.
        let _ = std::fs::remove_file(&settings.socket);
    }
    result
}

async fn listen(address: SocketAddr) -> Result<tokio::net::TcpListener, ServeError> {
    let fail = |source| ServeError::Listen { address: address.to_string(), source };
    tokio::net::TcpListener::bind(address).await.map_err(fail)
}

/// Tells the service manager how it goes, until a signal ends it.
async fn until_told(
    sender: &Sender<Command>,
    service: &ServiceManager,
    mut managing: tokio::task::JoinHandle<Result<(), RecordsError>>,
    up: impl FnOnce(),
) -> Result<(), ServeError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::System)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::System)?;
    // Its answer says that the records were taken up.
    let known = ask_alive(sender).await;
    if let Some(count) = known {
        service.ready(&format!("{count} VMs are known"));
        up();
    }
    let interval = service.watchdog_interval().unwrap_or(Duration::from_hours(1));
    let mut beat = tokio::time::interval(interval.max(Duration::from_millis(100)));
    let ended = loop {
        let next = async {
            std::future::poll_fn(|cx| {
                use std::task::Poll;
                if terminate.poll_recv(cx).is_ready() || interrupt.poll_recv(cx).is_ready() {
                    return Poll::Ready(Wake::Told);
                }
                if let Poll::Ready(result) = std::pin::Pin::new(&mut managing).poll(cx) {
                    return Poll::Ready(Wake::Ended(result));
                }
                beat.poll_tick(cx).map(|_| Wake::Beat)
            })
            .await
        };
        match next.await {
            Wake::Told => break None,
            Wake::Ended(result) => break Some(result),
            // A manager that hangs is not alive, whatever this thread thinks.
            Wake::Beat => {
                let answer = tokio::time::timeout(interval, ask_alive(sender)).await;
                if matches!(answer, Ok(Some(_))) {
                    service.alive();
                }
            }
        }
    };
    service.stopping();
    let result = if let Some(result) = ended {
        result
    } else {
        let _ = sender.send(Command::End);
        managing.await
    };
    result.map_err(|_| ServeError::Managing)?.map_err(ServeError::Records)
}

/// Why the loop woke.
enum Wake {
    Told,
    Ended(Result<Result<(), RecordsError>, tokio::task::JoinError>),
    Beat,
}

/// Whether the manager answers, and how many VMs it knows.
async fn ask_alive(sender: &Sender<Command>) -> Option<usize> {
    let (reply, answer) = tokio::sync::oneshot::channel();
    sender.send(Command::List(reply)).ok()?;
    Some(answer.await.ok()?.ok()?.len())
}

/// Where the records are kept: `/var/lib/casemate` for root, else `$XDG_STATE_HOME/casemate` or
/// `~/.local/state/casemate`; `None` where no home is known.
#[must_use]
pub fn default_records() -> Option<PathBuf> {
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| {
        let root = nix::unistd::geteuid().is_root();
        if root { Some("/var/lib".into()) } else { Some(absolute("HOME")?.join(".local/state")) }
    });
    state.map(|state| state.join("casemate/serve"))
}

/// The socket of a daemon that works for this user, or for the whole host: the first that is
/// there of `$CASEMATE_SOCKET`, the one below this user's state root, and root's.
#[must_use]
pub fn find_socket() -> Option<PathBuf> {
    let named = std::env::var_os("CASEMATE_SOCKET").map(PathBuf::from);
    let own = StateRoot::from_environment().ok().map(|root| root.dir().join(SOCKET_FILE));
    let host = Path::new("/run/casemate").join(SOCKET_FILE);
    named.into_iter().chain(own).chain([host]).find(|path| path.exists())
}
