//! The conformance cases on the in-memory API. `tests/cluster` runs them on a real API server.

use super::Served;
use super::conformance::{self, make_namespace, with_all_cases};

macro_rules! test_cases {
    ($($module:ident { $($case:ident: $needs:expr,)* })*) => {
        $(mod $module {
            $(#[tokio::test]
            async fn $case() {
                super::run(super::conformance::$module::$case).await;
            })*
        })*
    };
}

with_all_cases!(test_cases);

async fn run<F: Future<Output = ()>>(case: impl FnOnce(kube::Client, String) -> F) {
    let served = Served::start().await;
    let client = served.client();
    let namespace = "conformance";
    make_namespace(&client, namespace).await;
    case(client, namespace.to_owned()).await;
}
