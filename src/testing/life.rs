//! The life of a process that ends at any moment: tasks that stop for good at one of their polls.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

/// Shared by the tasks of one process.
pub struct Life {
    left: Mutex<Left>,
    /// What has to happen at that very moment.
    at_end: Box<dyn Fn() + Send + Sync>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Unlimited,
    Polls(usize),
    Over,
}

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Life").field("left", &self.left).finish_non_exhaustive()
    }
}

impl Life {
    /// One without an end in sight.
    pub fn new(at_end: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { left: Mutex::new(Left::Unlimited), at_end: Box::new(at_end) })
    }

    /// After so many more polls of its tasks, none of them is polled any more.
    pub fn end_after(&self, polls: usize) {
        *self.left() = Left::Polls(polls);
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        *self.left() == Left::Over
    }

    /// A new one begins.
    pub fn renew(&self) {
        *self.left() = Left::Unlimited;
    }

    /// The task, as long as this life lasts; it never ends by that.
    pub fn of<F: Future>(self: &Arc<Self>, task: F) -> Living<F> {
        Living { life: self.clone(), task: Box::pin(task) }
    }

    fn left(&self) -> std::sync::MutexGuard<'_, Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a task may be polled once more.
    fn goes_on(&self) -> bool {
        let mut left = self.left();
        match *left {
            Left::Unlimited => true,
            Left::Over => false,
            Left::Polls(0) => {
                *left = Left::Over;
                drop(left);
                (self.at_end)();
                false
            }
            Left::Polls(polls) => {
                *left = Left::Polls(polls - 1);
                true
            }
        }
    }
}

/// A task with a life.
#[derive(Debug)]
pub struct Living<F> {
    life: Arc<Life>,
    task: Pin<Box<F>>,
}

impl<F: Future> Future for Living<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if self.life.goes_on() { self.task.as_mut().poll(context) } else { Poll::Pending }
    }
}
