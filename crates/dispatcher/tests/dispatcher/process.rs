//! The real binary.

use crate::crashes::Process;
use crate::helpers::World;

/// The kernel's number of the policy for work in bulk.
const SCHED_BATCH: u32 = 3;

#[tokio::test(flavor = "multi_thread")]
async fn all_its_threads_give_way_to_those_at_whom_somebody_waits() {
    let world = World::create().await;
    let process = Process::start(&world);
    world.broker.wait_until_declared().await;
    let threads = std::fs::read_dir(format!("/proc/{}/task", process.id())).unwrap();
    let policies: Vec<u32> = threads.filter_map(|thread| policy(&thread.unwrap())).collect();
    assert!(policies.len() > 2 && policies.iter().all(|policy| *policy == SCHED_BATCH), "{policies:?}");
}

/// How a thread is scheduled, unless it has ended.
fn policy(thread: &std::fs::DirEntry) -> Option<u32> {
    let stat = std::fs::read_to_string(thread.path().join("stat")).ok()?;
    // The second field is the name, in parentheses; the policy is the 41st.
    let (_, after_name) = stat.rsplit_once(')').unwrap();
    Some(after_name.split_whitespace().nth(38).unwrap().parse().unwrap())
}
