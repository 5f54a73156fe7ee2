//! Stack, marks, memo and arena, and the errors of an opcode under way.

use super::{Machine, Outcome, PickleError, memo_max, narrow};
use crate::base::limit::{
    PICKLE_GLOBALS_MAX, PICKLE_ITEMS_MAX, PICKLE_LISTS_MAX, PICKLE_MARK_DEPTH_MAX, PICKLE_STACK_MAX,
};
use crate::wire::pickle::opcode as op;
use crate::wire::pickle::value::{ClassSpan, GlobalId, Items, ListId, Value};
use std::num::NonZeroU32;

impl Machine<'_> {
    pub(super) fn push(&mut self, value: Value) -> Outcome<()> {
        if self.stack.len() >= PICKLE_STACK_MAX {
            return Err(PickleError::TooMany { at: self.at });
        }
        self.stack.push(value);
        Ok(())
    }

    pub(super) fn top(&self) -> Outcome<Value> {
        match self.stack[self.fence..].last() {
            Some(&value) => Ok(value),
            None => Err(self.underflow()),
        }
    }

    pub(super) fn pop(&mut self) -> Outcome<Value> {
        let value = self.top()?;
        self.stack.pop();
        Ok(value)
    }

    pub(super) fn drop_top(&mut self, count: usize) -> Outcome<()> {
        let keep = self.below(count)?;
        self.stack.truncate(keep);
        Ok(())
    }

    /// Stack length without the top `count` values.
    pub(super) fn below(&self, count: usize) -> Outcome<usize> {
        match self.stack.len().checked_sub(count) {
            Some(keep) if keep >= self.fence => Ok(keep),
            _ => Err(self.underflow()),
        }
    }

    pub(super) fn mark(&mut self) -> Outcome<()> {
        if self.marks.len() >= PICKLE_MARK_DEPTH_MAX {
            return Err(PickleError::MarkDepth { at: self.at });
        }
        self.marks.push(self.fence);
        self.fence = self.stack.len();
        Ok(())
    }

    /// Closes the innermost mark and says how many values lie above it.
    pub(super) fn close(&mut self) -> Outcome<usize> {
        let outer = self.marks.pop().ok_or(self.underflow())?;
        let count = self.stack.len() - self.fence;
        self.fence = outer;
        Ok(count)
    }

    pub(super) fn put(&mut self, slot: usize) -> Outcome<()> {
        let value = self.top()?;
        if slot >= memo_max(self.buf.len()) {
            return Err(PickleError::MemoFull { slot, at: self.at });
        }
        self.set(slot, value);
        Ok(())
    }

    pub(super) fn set(&mut self, slot: usize, value: Value) {
        if slot >= self.memo.len() {
            if slot > self.memo.len() {
                self.memo.resize(slot, None);
            }
            self.memo.push(Some(value));
            self.memo_len += 1;
        } else if self.memo[slot].replace(value).is_none() {
            self.memo_len += 1;
        }
    }

    pub(super) fn get(&mut self, slot: usize) -> Outcome<()> {
        let value = self.memo.get(slot).copied().flatten();
        self.push(value.ok_or(PickleError::MemoEmpty { slot, at: self.at })?)
    }

    /// The top `count` values become a tuple.
    pub(super) fn tuple(&mut self, count: usize) -> Outcome<()> {
        let keep = self.below(count)?;
        let start = self.heap.items.len();
        if start + count > PICKLE_ITEMS_MAX {
            return Err(PickleError::TooMany { at: self.at });
        }
        self.heap.items.extend_from_slice(&self.stack[keep..]);
        self.stack.truncate(keep);
        self.push(Value::Tuple(Items {
            start: narrow(start),
            len: narrow(count),
        }))
    }

    pub(super) fn list(&mut self) -> Outcome<ListId> {
        let id = self.heap.lists.len();
        if id >= PICKLE_LISTS_MAX {
            return Err(PickleError::TooMany { at: self.at });
        }
        self.heap.lists.push(Vec::new());
        Ok(ListId(narrow(id)))
    }

    /// The top `count` values go into the list or dict below them.
    pub(super) fn extend(&mut self, count: usize) -> Outcome<()> {
        let keep = self.below(count)?;
        let into_dict = matches!(self.op, op::SETITEM | op::SETITEMS);
        let id = match self.stack[self.fence..keep].last() {
            Some(Value::List(id)) if !into_dict => Some(id.0),
            Some(Value::Dict(id)) if into_dict && count.is_multiple_of(2) => Some(id.0),
            Some(Value::Opaque) => None,
            Some(_) => return Err(self.operand()),
            None => return Err(self.underflow()),
        };
        if let Some(id) = id {
            self.listed += count;
            if self.listed > PICKLE_ITEMS_MAX {
                return Err(PickleError::TooMany { at: self.at });
            }
            self.heap.lists[id as usize].extend_from_slice(&self.stack[keep..]);
        }
        self.stack.truncate(keep);
        Ok(())
    }

    pub(super) fn opaque(&mut self, count: usize) -> Outcome<()> {
        self.drop_top(count)?;
        self.push(Value::Opaque)
    }

    pub(super) fn global(&mut self, class: ClassSpan) -> Outcome<GlobalId> {
        if self.heap.globals.len() >= PICKLE_GLOBALS_MAX {
            return Err(PickleError::TooMany { at: self.at });
        }
        self.heap.globals.push(class);
        let count = NonZeroU32::new(narrow(self.heap.globals.len()));
        Ok(GlobalId(count.expect("one was pushed just now")))
    }

    pub(super) fn truncated(&self) -> PickleError {
        PickleError::Truncated { at: self.at }
    }

    pub(super) fn operand(&self) -> PickleError {
        PickleError::Operand {
            op: self.op,
            at: self.at,
        }
    }

    pub(super) fn underflow(&self) -> PickleError {
        PickleError::Underflow {
            op: self.op,
            at: self.at,
        }
    }
}
