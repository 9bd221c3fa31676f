//! The conformance cases of the in-memory API on the real one.

use crate::conformance::{self, make_namespace, with_all_cases};
use crate::plane::ADMIN;
use crate::{World, wait_for};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Namespace;
use kube::Client;
use kube::api::{Api, DeleteParams};
use libtest_mimic::{Completion, Trial};
use std::sync::Arc;

/// What a case needs besides any API server.
enum Needs {
    Nothing,
    /// Garbage collection and the end of namespaces.
    Controllers,
    /// A minor version of Kubernetes, for this reason.
    Since(u32, &'static str),
}

struct Case {
    name: &'static str,
    needs: Needs,
    run: fn(Client, String) -> BoxFuture<'static, ()>,
}

macro_rules! list_cases {
    ($($module:ident { $($case:ident: $needs:expr,)* })*) => {
        fn cases() -> Vec<Case> {
            use Needs::{Controllers, Nothing, Since};
            vec![$($(Case {
                name: concat!("conformance::", stringify!($module), "::", stringify!($case)),
                needs: $needs,
                run: |client, namespace| Box::pin(conformance::$module::$case(client, namespace)),
            },)*)*]
        }
    };
}

with_all_cases!(list_cases);

pub(crate) fn trials(world: &Arc<World>) -> Vec<Trial> {
    let trial = |case: Case| {
        let world = Arc::clone(world);
        Trial::ignorable_test(case.name, move || Ok(run(&world, &case)))
    };
    cases().into_iter().map(trial).collect()
}

/// Runs a case in a namespace of its own, which is left to be deleted.
fn run(world: &World, case: &Case) -> Completion {
    match case.needs {
        Needs::Controllers if !world.assets.has("kube-controller-manager") => {
            return world.skip(case.name, "there is no kube-controller-manager");
        }
        Needs::Since(minor, reason) if world.assets.minor("kube-apiserver") < minor => {
            return world.skip(case.name, &format!("needs 1.{minor}: {reason}"));
        }
        Needs::Nothing | Needs::Controllers | Needs::Since(..) => {}
    }
    wait_for(async {
        let client = world.shared().await.client(ADMIN).await;
        let namespace = format!("conformance-{:08x}", rand::random::<u32>());
        make_namespace(&client, &namespace).await;
        (case.run)(client.clone(), namespace.clone()).await;
        let namespaces: Api<Namespace> = Api::all(client);
        namespaces.delete(&namespace, &DeleteParams::background()).await.expect("deleted");
        Completion::Completed
    })
}
