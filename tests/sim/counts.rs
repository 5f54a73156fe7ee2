//! How often what was meant to happen did: a run in which something hardly ever happened says little.

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// How often what was meant to happen did.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub(crate) struct Counts { $($(#[$doc])* pub(crate) $name: u64,)* }

        impl Counts {
            pub(crate) fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// What happened least.
            pub(crate) fn rarest(&self) -> u64 {
                [$(self.$name,)*].into_iter().min().unwrap()
            }
        }
    };
}

counts! {
    steps,
    shown,
    reads,
    parked,
    /// Tasks from which a view took objects.
    robbed,
    /// Loads that came in for a view that was over.
    stale_loads,
    stores,
    stores_abandoned,
    /// Blocks that several workers touched.
    joined,
    /// Readers in order of whom somebody was told, and pieces stored for them; READs of what is counted already, and stores of what was
    /// read before; stores that were given up when head moved on; READs with O_DIRECT.
    told,
    pieces,
    met,
    read_before,
    given_back,
    direct,
    /// Stores taken back by a drop, and those under way that one waited for.
    withdrawn,
    under_way,
    /// Ranges, and whole files.
    drops,
    whole,
    /// Pages that a notification had to wait for.
    lock_waits,
    interrupted,
    forgotten,
    /// Files whose own object changed.
    retired,
    /// Answers of an older view than another worker's.
    behind,
    /// Views taken because a request came.
    hurried,
    /// Workers that missed states.
    gaps,
    /// Pages from which a new end of the file waited to be cut.
    cut_waits,
    /// LOOKUPs whose answer a drop overtook.
    crossed,
    /// Publications for which a worker had to be waited for.
    awaited,
    /// Transactions that make files shorter.
    shorter,
    /// Changes that were found only when every worker had the state.
    late,
    /// Blocks asked for, kept, given back otherwise than they were given, not given back in time; and that had to be kept. What was asked for of
    /// several blocks at once, and what came back of those with a gap.
    asked,
    runs,
    torn,
    kept,
    refused,
    too_late,
    promised,
    /// OPENs below `@<tid>`, and those for which something was kept.
    opens,
    opens_kept,
    /// Kept pages stored in a file that somebody has open.
    kept_for_open,
    /// Files that nobody could tell the changes of, and states published only because of such.
    astray,
    same,
    /// Transactions of which the history could not load what it needed.
    blind,
    /// Opens of `head/watch`; watch requests carried out, ended, refused; byes.
    links,
    watched,
    unwatched,
    refusals,
    byes,
    /// Pins, and those of them back to head.
    pins,
    unpins,
    /// READs, and stores, that were held until something was pinned; stores that were given up then.
    asks,
    held_back,
    held_given_up,
    /// READs that were refused.
    unread,
    /// READs of clients through their mappings.
    faults,
    /// Clients that turned bad or left, and signals for such.
    turned,
    /// Clients that ended while a child of theirs had the link.
    forks,
    bus,
    kills,
}
