//! Which pod of a revision a request goes to, and the waiting while none has room.
//!
//! Requests wait in one line per revision, whatever they wait for: the first pod, or room in one. When room appears it
//! is handed to whoever came first, so capacity and choice of pod never disagree. A pod is used once its queue-proxy
//! has said that it is ready, which is usually before Kubernetes says so.

use crate::dataplane::body::{empty, read_short};
use crate::dataplane::limit::{Line, QueueFull};
use crate::dataplane::probes;
use crate::dataplane::proxy::{Protocol, Proxy};
use crate::dataplane::timeouts::Timeouts;
use crate::units::RevisionKey;
use http::header::{HOST, USER_AGENT};
use http::{Request, StatusCode};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info};

/// What the activator knows of a revision besides its pods.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Revision {
    /// Requests a pod takes at once; 0 is any number.
    pub container_concurrency: usize,
    /// What its pods' port is named for.
    pub protocol: Protocol,
    /// When its requests are given up.
    pub timeouts: Timeouts,
    /// Only Kubernetes knows whether a pod is ready: part of its readiness is probed by the kubelet alone (exec, start-up
    /// probes). Then a pod waits to be listed as ready.
    pub kubelet_decides: bool,
}

/// How pods are probed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProbeSettings {
    /// How long one probe may take. A queue-proxy whose process is starting holds the probe open and answers the moment
    /// it is ready, so longer is not slower.
    pub timeout: Duration,
    /// How long it rests after a failure, at first. A pod that stays unready is asked less and less, down to
    /// [`SLOWEST_PROBE`].
    pub rest: Duration,
}

impl Default for ProbeSettings {
    fn default() -> Self {
        Self { timeout: Duration::from_millis(300), rest: Duration::from_millis(15) }
    }
}

/// The longest rest between probes of one pod: Knative's own frequency.
pub const SLOWEST_PROBE: Duration = Duration::from_millis(200);
/// Probes of one pod before the rest grows.
const EAGER_PROBES: u32 = 200;

/// What all revisions share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) proxy: Proxy,
    pub(crate) probe: ProbeSettings,
    pub(crate) queue_depth: usize,
}

/// Which part of a revision's pods is this activator's: `index` of `count`, in order of address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// From 0.
    pub index: usize,
    /// At least 1.
    pub count: usize,
}

/// One revision at the activator.
#[derive(Debug)]
pub(crate) struct Throttle {
    key: RevisionKey,
    shared: Arc<Shared>,
    state: Mutex<State>,
    me: Weak<Self>,
}

#[derive(Debug)]
struct State {
    revision: Revision,
    /// In order of address.
    pods: Vec<Pod>,
    next_pod: u64,
    share: Option<Share>,
    line: Line<Lease>,
    /// Where the search for the least loaded begins, so that equals take turns.
    turn: usize,
    closed: bool,
}

#[derive(Debug)]
struct Pod {
    id: u64,
    addr: SocketAddr,
    /// Kubernetes lists it as ready.
    listed: bool,
    /// Its queue-proxy said that it is ready, and no connection was refused since.
    probed: bool,
    /// It is in this activator's share.
    mine: bool,
    in_flight: usize,
    /// The task that asks it until it is ready.
    probing: Option<AbortOnDropHandle<()>>,
}

/// Why there is no pod for a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoPod {
    /// Too many wait already.
    Full(QueueFull),
    /// The revision was deleted.
    Gone,
}

/// A place in a pod for one request, given back when dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    throttle: Arc<Throttle>,
    pod: u64,
    addr: SocketAddr,
}

impl Lease {
    /// Where to send the request.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The pod refused the connection: it gets no more requests until it says again that it is ready.
    pub(crate) fn unreachable(self) {
        self.throttle.unreachable(self.addr, self.pod);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        {
            let mut state = self.throttle.lock();
            if let Some(pod) = state.find(self.addr, self.pod) {
                pod.in_flight -= 1;
            }
        }
        self.throttle.hand_out();
    }
}

impl Throttle {
    pub(crate) fn new(key: RevisionKey, revision: Revision, share: Option<Share>, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new_cyclic(|me| {
            let state = State {
                revision,
                pods: Vec::new(),
                next_pod: 0,
                share,
                line: Line::new(shared.queue_depth),
                turn: 0,
                closed: false,
            };
            Self { key, shared, state: Mutex::new(state), me: me.clone() }
        })
    }

    pub(crate) fn revision(&self) -> Revision {
        self.lock().revision
    }

    pub(crate) fn set_revision(&self, revision: Revision) {
        {
            let mut state = self.lock();
            state.revision = revision;
            state.assign();
        }
        self.hand_out();
    }

    pub(crate) fn set_share(&self, share: Option<Share>) {
        {
            let mut state = self.lock();
            if state.share == share {
                return;
            }
            state.share = share;
            state.assign();
        }
        self.hand_out();
    }

    /// The pods there are now, each with whether Kubernetes lists it as ready.
    pub(crate) fn set_pods(&self, now: &[(SocketAddr, bool)]) {
        let now: BTreeMap<SocketAddr, bool> = now.iter().copied().collect();
        {
            let mut state = self.lock();
            state.pods.retain(|pod| {
                let stays = now.contains_key(&pod.addr);
                if !stays {
                    self.shared.proxy.forget(pod.addr);
                }
                stays
            });
            for (&addr, &listed) in &now {
                match state.pods.binary_search_by_key(&addr, |pod| pod.addr) {
                    Ok(at) => {
                        let fell = state.pods[at].listed && !listed;
                        state.pods[at].listed = listed;
                        if fell {
                            self.probe(&mut state.pods[at]);
                        }
                    }
                    Err(at) => {
                        state.next_pod += 1;
                        let mut pod = Pod {
                            id: state.next_pod,
                            addr,
                            listed,
                            probed: false,
                            mine: false,
                            in_flight: 0,
                            probing: None,
                        };
                        self.probe(&mut pod);
                        state.pods.insert(at, pod);
                    }
                }
            }
            state.assign();
        }
        self.hand_out();
    }

    /// The revision is gone: whoever waits is sent away.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.line.clear();
        state.pods.clear();
    }

    /// Waits for a place in a pod. `number` is the request's place in the line: `None` when it has just come; one that
    /// comes back from a pod that refused it stands before those who came later.
    pub(crate) async fn acquire(&self, number: &mut Option<u64>) -> Result<Lease, NoPod> {
        let (number, receiver) = {
            let mut state = self.lock();
            if state.closed {
                return Err(NoPod::Gone);
            }
            if state.line.len() == 0
                && let Some(lease) = self.pick(&mut state)
            {
                // Its number is given now, so that it keeps its place should the pod refuse it.
                number.get_or_insert_with(|| state.line.number());
                return Ok(lease);
            }
            let number = match *number {
                Some(number) => number,
                None if state.line.is_full() => return Err(NoPod::Full(QueueFull)),
                None => *number.insert(state.line.number()),
            };
            (number, state.line.join(number))
        };
        let _leaving = Leaving { throttle: self, number };
        // Only `close` takes a sender away without sending.
        receiver.await.map_err(|_| NoPod::Gone)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.lock().line.len()
    }

    /// Requests that wait, and those at pods, any pods.
    pub(crate) fn under_way(&self) -> (usize, usize) {
        let state = self.lock();
        (state.line.len(), state.pods.iter().map(|pod| pod.in_flight).sum())
    }

    /// The pods that requests may go to, and the requests at each.
    pub(crate) fn usable(&self) -> Vec<(SocketAddr, usize)> {
        let state = self.lock();
        let decides = state.revision.kubelet_decides;
        state.pods.iter().filter(|pod| pod.usable(decides)).map(|pod| (pod.addr, pod.in_flight)).collect()
    }

    fn hand_out(&self) {
        loop {
            let (sender, lease) = {
                let mut state = self.lock();
                if state.line.len() == 0 {
                    return;
                }
                let Some(lease) = self.pick(&mut state) else { return };
                match state.line.first() {
                    Some(sender) => (sender, lease),
                    None => return,
                }
            };
            // Outside the lock: a lease that nobody takes is dropped here, and its place handed on.
            drop(sender.send(lease));
        }
    }

    fn pick(&self, state: &mut State) -> Option<Lease> {
        let at = state.choose()?;
        let pod = &mut state.pods[at];
        pod.in_flight += 1;
        Some(Lease { throttle: self.me.upgrade()?, pod: pod.id, addr: pod.addr })
    }

    fn unreachable(&self, addr: SocketAddr, id: u64) {
        let mut state = self.lock();
        if let Some(pod) = state.find(addr, id)
            && pod.probed
        {
            info!(revision = %self.key, pod = %pod.addr, "pod cannot be reached; its requests go elsewhere");
            self.probe(pod);
            state.assign();
        }
    }

    /// Takes a pod out of use until it has said that it is ready.
    fn probe(&self, pod: &mut Pod) {
        pod.probed = false;
        let (me, shared, id, addr) = (self.me.clone(), Arc::clone(&self.shared), pod.id, pod.addr);
        pod.probing = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let mut failed = 0;
            while !is_ready(&shared, addr).await {
                failed += 1;
                let rest = if failed < EAGER_PROBES { shared.probe.rest } else { SLOWEST_PROBE.max(shared.probe.rest) };
                tokio::time::sleep(rest).await;
            }
            if let Some(throttle) = me.upgrade() {
                throttle.said_ready(addr, id);
            }
        })));
    }

    fn said_ready(&self, addr: SocketAddr, id: u64) {
        {
            let mut state = self.lock();
            if let Some(pod) = state.find(addr, id) {
                debug!(revision = %self.key, pod = %pod.addr, "pod is ready");
                pod.probed = true;
            }
            state.assign();
        }
        self.hand_out();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pod {
    fn usable(&self, kubelet_decides: bool) -> bool {
        self.probed && (self.listed || !kubelet_decides)
    }
}

impl State {
    /// A pod, unless it has gone; another may have its address by now.
    fn find(&mut self, addr: SocketAddr, id: u64) -> Option<&mut Pod> {
        let at = self.pods.binary_search_by_key(&addr, |pod| pod.addr).ok()?;
        self.pods.get_mut(at).filter(|pod| pod.id == id)
    }

    /// The pod for one more request: the least loaded of those with room, equals in turn. Without a limit two are drawn
    /// and the less loaded taken, which is nearly as even and does not look at all of them.
    fn choose(&mut self) -> Option<usize> {
        let limit = self.revision.container_concurrency;
        let decides = self.revision.kubelet_decides;
        let count = self.pods.len();
        if limit == 0 && count > 2 {
            let (one, other) = two_of(count);
            let better = [one, other]
                .into_iter()
                .filter(|at| self.pods[*at].mine && self.pods[*at].usable(decides))
                .min_by_key(|at| self.pods[*at].in_flight);
            if better.is_some() {
                return better;
            }
            // Both unusable, as when most pods are still starting: look at all.
        }
        let start = self.turn;
        let chosen = (0..count)
            .map(|step| (start + step) % count)
            .filter(|at| {
                let pod = &self.pods[*at];
                pod.mine && pod.usable(decides) && (limit == 0 || pod.in_flight < limit)
            })
            .min_by_key(|at| self.pods[*at].in_flight)?;
        self.turn = (chosen + 1) % count;
        Some(chosen)
    }

    /// Works out this activator's share of the usable pods. Without a limit per pod there is nothing to share out.
    fn assign(&mut self) {
        let decides = self.revision.kubelet_decides;
        let usable: Vec<usize> = (0..self.pods.len()).filter(|at| self.pods[*at].usable(decides)).collect();
        for pod in &mut self.pods {
            pod.mine = false;
        }
        let share = if self.revision.container_concurrency == 0 { None } else { self.share };
        for place in share_of(usable.len(), share) {
            self.pods[usable[place]].mine = true;
        }
    }
}

/// The places, out of `pods`, that belong to one activator: an equal run each, and the first activators one more each of
/// what is left over. With fewer pods than activators one pod serves several. As Knative's activator shares them out.
fn share_of(pods: usize, share: Option<Share>) -> Vec<usize> {
    match share {
        Some(Share { index, count }) if count > 1 && pods > 1 => {
            if count > pods {
                return vec![index % pods];
            }
            let each = pods / count;
            let left_over = pods % count;
            let mut mine: Vec<usize> = (index * each..(index + 1) * each).collect();
            if index < left_over {
                mine.push(pods - left_over + index);
            }
            mine
        }
        _ => (0..pods).collect(),
    }
}

/// Two different numbers below `count`, which is at least 2.
fn two_of(count: usize) -> (usize, usize) {
    let one = rand::random_range(0..count);
    let other = rand::random_range(0..count - 1);
    (one, if other >= one { other + 1 } else { other })
}

/// Asks a pod's queue-proxy whether it is ready. The connection is kept for the first request.
async fn is_ready(shared: &Shared, addr: SocketAddr) -> bool {
    let asking = async {
        let request = Request::get("/healthz")
            .header(HOST, addr.to_string())
            .header(USER_AGENT, crate::api::names::ACTIVATOR_PROBE_AGENT)
            .header(crate::api::names::NETWORK_PROBE_HEADER, probes::QUEUE)
            .body(empty())
            .ok()?;
        let response = shared.proxy.forward(request, addr, Protocol::Http1, ()).await.ok()?;
        let good = response.status() == StatusCode::OK;
        // Read to its end in either case, so that the connection can be kept.
        let body = read_short(response.into_body(), 1024).await?;
        Some(good && body == probes::QUEUE.as_bytes())
    };
    tokio::time::timeout(shared.probe.timeout, asking).await.ok().flatten().unwrap_or(false)
}

struct Leaving<'a> {
    throttle: &'a Throttle,
    number: u64,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.throttle.lock().line.leave(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::dataplane::proxy::Settings;
    use futures::FutureExt as _;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::future::Future;
    use std::pin::Pin;

    #[test]
    fn pods_are_shared_out_among_activators() {
        let share = |pods, index, count| share_of(pods, Some(Share { index, count }));
        // 20 pods, 3 activators: 6 each, and the last two go to the first two.
        assert_eq!(share(20, 0, 3), [0, 1, 2, 3, 4, 5, 18]);
        assert_eq!(share(20, 1, 3), [6, 7, 8, 9, 10, 11, 19]);
        assert_eq!(share(20, 2, 3), [12, 13, 14, 15, 16, 17]);
        // Fewer pods than activators: by turns.
        assert_eq!(share(3, 3, 5), [0]);
        assert_eq!(share(3, 4, 5), [1]);
        assert_eq!(share(1, 4, 5), [0]);
        assert_eq!(share(0, 1, 2), [0; 0]);
        assert_eq!(share_of(3, None), [0, 1, 2]);
    }

    type Waiting<'a> = Pin<Box<dyn Future<Output = Result<Lease, NoPod>> + 'a>>;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Announce(u16, bool),
        Withdraw(u16),
        SaysReady(u16),
        Come,
        Finish(usize),
        Refused(usize),
        GiveUp(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            2 => (1..5u16, any::<bool>()).prop_map(|(pod, listed)| Step::Announce(pod, listed)),
            1 => (1..5u16).prop_map(Step::Withdraw),
            3 => (1..5u16).prop_map(Step::SaysReady),
            5 => Just(Step::Come),
            3 => (0..8usize).prop_map(Step::Finish),
            1 => (0..8usize).prop_map(Step::Refused),
            1 => (0..8usize).prop_map(Step::GiveUp),
        ];
        proptest::collection::vec(step, 0..120)
    }

    proptest! {
        /// Whatever happens to pods and clients: no pod has more than it takes, nobody waits beside a pod with room,
        /// nobody overtakes, and in the end nothing is held.
        #[test]
        fn pods_are_filled_and_never_overfilled(steps in steps(), limit in 0..3usize, kubelet_decides: bool) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            // Probes are spawned but never run: `SaysReady` stands for their outcome.
            let _context = runtime.enter();
            let shared = Arc::new(Shared {
                proxy: Proxy::new(Clock::system(), Settings::default()),
                probe: ProbeSettings::default(),
                queue_depth: 5,
            });
            let revision = Revision { container_concurrency: limit, kubelet_decides, ..Revision::default() };
            let throttle = Throttle::new(RevisionKey::new("ns", "r"), revision, None, shared);
            let address = |pod: u16| SocketAddr::from(([127, 0, 0, 1], pod));
            let mut pods: BTreeMap<SocketAddr, bool> = BTreeMap::new();
            let mut going: Vec<(u32, Lease)> = Vec::new();
            let mut waiting: VecDeque<(u32, Waiting<'_>)> = VecDeque::new();
            let mut number = 0;
            let told = |pods: &BTreeMap<SocketAddr, bool>| {
                throttle.set_pods(&pods.iter().map(|(addr, listed)| (*addr, *listed)).collect::<Vec<_>>());
            };
            for step in steps {
                match step {
                    Step::Announce(pod, listed) => {
                        pods.insert(address(pod), listed);
                        told(&pods);
                    }
                    Step::Withdraw(pod) => {
                        pods.remove(&address(pod));
                        told(&pods);
                    }
                    Step::SaysReady(pod) => {
                        let id = throttle.lock().pods.iter().find(|known| known.addr == address(pod)).map(|known| known.id);
                        if let Some(id) = id {
                            throttle.said_ready(address(pod), id);
                        }
                    }
                    Step::Come => {
                        number += 1;
                        let throttle = &throttle;
                        let mut waiter: Waiting<'_> = Box::pin(async move { throttle.acquire(&mut None).await });
                        match waiter.as_mut().now_or_never() {
                            Some(Ok(lease)) => {
                                prop_assert!(waiting.is_empty());
                                going.push((number, lease));
                            }
                            Some(Err(_)) => prop_assert!(waiting.len() >= 5),
                            None => waiting.push_back((number, waiter)),
                        }
                    }
                    Step::Finish(at) if at < going.len() => drop(going.swap_remove(at)),
                    Step::Refused(at) if at < going.len() => going.swap_remove(at).1.unreachable(),
                    Step::GiveUp(at) if at < waiting.len() => drop(waiting.remove(at)),
                    Step::Finish(_) | Step::Refused(_) | Step::GiveUp(_) => {}
                }
                let mut overtaken = false;
                let mut still = VecDeque::new();
                for (who, mut waiter) in waiting.drain(..) {
                    if let Some(lease) = waiter.as_mut().now_or_never() {
                        prop_assert!(!overtaken, "{who} overtook");
                        going.push((who, lease.expect("a pod")));
                    } else {
                        overtaken = true;
                        still.push_back((who, waiter));
                    }
                }
                waiting = still;
                let usable = throttle.usable();
                for (addr, in_flight) in &usable {
                    prop_assert!(limit == 0 || *in_flight <= limit, "{addr} has {in_flight}");
                    prop_assert!(!kubelet_decides || pods[addr], "{addr} is not listed");
                }
                prop_assert_eq!(throttle.waiting(), waiting.len());
                if !waiting.is_empty() {
                    let room = usable.iter().any(|(_, in_flight)| limit == 0 || *in_flight < limit);
                    prop_assert!(!room, "somebody waits beside a pod with room: {usable:?}");
                }
            }
            drop(waiting);
            drop(going);
            prop_assert_eq!(throttle.waiting(), 0);
            prop_assert!(throttle.usable().iter().all(|(_, in_flight)| *in_flight == 0));
        }

        /// With at least as many pods as activators each pod has exactly one, and shares differ by at most one pod.
        #[test]
        fn every_pod_has_one_activator(pods in 2..200usize, count in 1..50usize) {
            prop_assume!(count <= pods);
            let shares: Vec<Vec<usize>> = (0..count).map(|index| share_of(pods, Some(Share { index, count }))).collect();
            let mut all: Vec<usize> = shares.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..pods).collect::<Vec<_>>());
            let sizes = shares.iter().map(Vec::len);
            prop_assert!(sizes.clone().max().expect("some") - sizes.min().expect("some") <= 1);
        }

        #[test]
        fn two_are_drawn_and_they_differ(count in 2..50usize) {
            let (one, other) = two_of(count);
            prop_assert!(one != other && one < count && other < count);
        }
    }
}
