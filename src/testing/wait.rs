//! Waiting for something to become so, with a bound. No test sleeps and hopes.

use std::fmt::Debug;
use std::time::Duration;

use tokio::sync::watch;

/// How long a test waits for anything. On tokio's paused clock it passes at once when nothing is left to happen.
pub const LIMIT: Duration = Duration::from_secs(30);
/// The pause between two looks at something that does not tell when it changes.
const PAUSE: Duration = Duration::from_millis(5);

/// Waits until the value of a `watch` is as wanted, and gives it.
///
/// # Panics
/// After [`LIMIT`], or when the sender is gone, showing `what` and the last value.
pub async fn until<T: Clone + Debug>(
    receiver: &mut watch::Receiver<T>,
    what: &str,
    wanted: impl FnMut(&T) -> bool,
) -> T {
    let waited = tokio::time::timeout(LIMIT, receiver.wait_for(wanted)).await;
    match waited.map(|found| found.map(|value| value.clone())) {
        Ok(Ok(value)) => value,
        Ok(Err(_)) => panic!("waiting for {what}: nobody is left to say so; last was {:?}", *receiver.borrow()),
        Err(_) => panic!("gave up waiting for {what}; last was {:?}", *receiver.borrow()),
    }
}

/// Waits until `look` finds something, and gives it.
///
/// # Panics
/// After [`LIMIT`], showing `what`.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(LIMIT, looking).await.unwrap_or_else(|_| panic!("gave up waiting for {what}"))
}
