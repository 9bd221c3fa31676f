//! Ebb on a real API server: `tests/cluster/run`, or `cargo test --test cluster` with `KUBEBUILDER_ASSETS` naming a
//! directory with etcd and kube-apiserver, and kube-controller-manager if there is one.
//!
//! Without it nothing is tested, and said so; with `EBB_CLUSTER` set that is a failure. `EBB_LOG=ebb=debug` shows what
//! the parts that run in this process have to say.

mod audit;
#[path = "../it/apiserver/conformance/mod.rs"]
mod conformance;
mod conforms;
mod faults;
#[path = "../it/patience.rs"]
mod patience;
mod plane;
mod process;
mod replica;
mod rights;
mod roles;
#[path = "../it/apiserver/served.rs"]
mod served;
mod translate;
mod webhook;
mod whole;

use futures::future::LocalBoxFuture;
use libtest_mimic::{Arguments, Completion, Trial};
use patience::{say, wait_for};
use plane::{Assets, Plane};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;

fn main() -> ExitCode {
    let assets = match Assets::find() {
        Ok(assets) => assets,
        Err(missing) => {
            say(&format!("skipped: {missing}; tests/cluster/run prepares them"));
            let asked_for = std::env::var_os("EBB_CLUSTER").is_some_and(|asked| !asked.is_empty());
            return if asked_for { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    if let Ok(log) = std::env::var("EBB_LOG") {
        tracing_subscriber::fmt().with_env_filter(log).with_writer(std::io::stderr).init();
    }
    let world =
        Arc::new(World { assets, shared: OnceCell::new(), skipped: Mutex::default(), translated: AtomicU64::new(0) });
    let trials = trials(&world);
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials);
    world.summary();
    conclusion.exit_code()
}

/// What the tests have in common.
struct World {
    assets: Assets,
    /// A control plane with controllers for whoever leaves it in order.
    shared: OnceCell<Plane>,
    skipped: Mutex<Vec<(String, String)>>,
    /// Requests for EndpointSlices that had to be translated.
    translated: AtomicU64,
}

impl World {
    async fn shared(&self) -> &Plane {
        self.shared.get_or_init(|| Plane::start(&self.assets, self.assets.has("kube-controller-manager"))).await
    }

    fn skip(&self, name: &str, reason: &str) -> Completion {
        self.skipped.lock().unwrap_or_else(PoisonError::into_inner).push((name.to_owned(), reason.to_owned()));
        Completion::ignored_with(reason)
    }

    fn summary(&self) {
        if let Some(ended) = self.shared.get().and_then(Plane::ended) {
            say(&ended);
        }
        let skipped = self.skipped.lock().unwrap_or_else(PoisonError::into_inner);
        let minor = self.assets.minor("kube-apiserver");
        say(&format!("on Kubernetes 1.{minor}, {} skipped", skipped.len()));
        let translated = self.translated.load(Ordering::Relaxed);
        if translated > 0 {
            say(&format!(
                "  {translated} requests for EndpointSlices were translated to v1beta1, which is all it serves"
            ));
        }
        for (name, reason) in skipped.iter() {
            say(&format!("  {name}: {reason}"));
        }
    }
}

fn trials(world: &Arc<World>) -> Vec<Trial> {
    let mut trials = conforms::trials(world);
    let mut trial = |name: &'static str, run: fn(&World) -> LocalBoxFuture<'_, ()>| {
        let world = Arc::clone(world);
        trials.push(Trial::test(name, move || {
            wait_for(run(&world));
            Ok(())
        }));
    };
    trial("rights::each_is_needed_and_no_other", |world| Box::pin(rights::each_is_needed_and_no_other(world)));
    trial("faults::replicas_follow_each_other", |world| Box::pin(faults::replicas_follow_each_other(world)));
    trial("faults::outages_change_nothing", |world| Box::pin(faults::outages_change_nothing(world)));
    trial("whole::to_zero_and_back_in_memory", |_| Box::pin(whole::in_memory()));
    trial("whole::to_zero_and_back", |world| Box::pin(whole::on_a_real_api_server(world)));
    trials
}

/// The root of the repository, as cargo says when the tests run.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where the package is"))
}
