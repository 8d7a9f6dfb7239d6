//! How many bytes may be in flight, and how many are.

/// An account of bytes. The largest message counts for half of what may be in flight at most: however large it is, and
/// however slow the relay that it goes to, there is room for others beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    most: i64,
    used: i64,
    largest: i64,
}

impl Memory {
    /// Nothing is in flight of what may be at most.
    pub fn new(most: i64) -> Self {
        Self {
            most,
            used: 0,
            largest: 0,
        }
    }

    /// A message comes into flight.
    pub fn add(&mut self, size: i64) {
        self.used += size;
        self.largest = self.largest.max(size);
    }

    /// How many bytes more may be in flight; less than none where it is too much already.
    pub fn left(&self) -> i64 {
        self.most - self.used + (self.largest - self.most / 2).max(0)
    }

    /// Messages of that many bytes in all are in flight; `largest` is asked for the largest of them if that matters.
    pub(crate) fn with(mut self, bytes: i64, largest: impl FnOnce() -> i64) -> Self {
        self.used += bytes;
        if bytes > self.most / 2 {
            self.largest = self.largest.max(largest());
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::Memory;

    #[test]
    fn the_largest_leaves_half_for_the_others() {
        let mut memory = Memory::new(100);
        assert_eq!(memory.left(), 100);
        memory.add(10);
        assert_eq!(memory.left(), 90);
        memory.add(1000);
        assert_eq!(memory.left(), 40);
        memory.add(40);
        assert_eq!(memory.left(), 0);
        memory.add(1000);
        assert!(memory.left() < 0, "one of them only");
        assert_eq!(Memory::new(100).with(1030, || 1000), {
            let mut same = Memory::new(100);
            same.add(30);
            same.add(1000);
            same
        });
    }
}
