//! Mistakes that the daemon could make, each a switch of the driver: what shows that the checks see something.
//!
//! The last one is none: it shows what correctness does not rest on.

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// A worker says that it took a state, and keeps the old view.
    KeepsView,
    /// A worker says that it answers from a state before it does, and answers requests in between.
    EntersTooEarly,
    /// A worker looks for a new state when it wakes, not before each request: another may have answered of it already.
    ViewAtWaking,
    /// The state is published before the kernel was asked for the old pages.
    PublishBeforeKeep,
    /// What was noted while a transaction was passing is not compared with it.
    LateNotesLost,
    /// What was noted while a transaction was passing is taken for what is as of it.
    LateNotesAfter,
    /// Drops begin while workers answer from the old view.
    DropBeforePassed,
    /// `head/at` moves before the pages are dropped.
    ShowBeforeDropped,
    /// Stores of what is dropped stay in their queue.
    NotWithdrawn,
    /// A store under way of what is dropped is not waited for.
    UnderWayNotAwaited,
    /// A finished store is handed over later, across a change of view.
    LateStore,
    /// READs are answered and what they depend on is not noted.
    NotNoted,
    /// What an answer depends on is noted some time after it.
    NotedLate,
    /// A leaf that one worker noted is noted by no other.
    NotedOnce,
    /// Pages behind the end of a file are given and not noted.
    BeyondNotNoted,
    /// What the kernel gives back is kept as it is.
    SumNotChecked,
    /// Blocks behind a page that the kernel does not have are given up with it.
    TornGivenUp,
    /// Old pages are kept as those of the new state.
    KeptUnderWrongRev,
    /// Old pages of holes are stored behind the end that the file had.
    KeptBehindEnd,
    /// Workers are not told of files that the history starts anew with.
    AnewUntold,
    /// A worker that missed states goes on with what it has.
    GapIgnored,
    /// READs wait while head is moving.
    ReadsWait,
    /// Drops wait for the stores before them.
    OneQueue,
    /// What is kept is stored by the thread that stores for head.
    KeptByStorer,
    /// A parked READ goes on with the objects it has.
    ParkedKeeps,
    /// What is in flight when the view changes counts as new.
    InFlightKept,
    /// The worker's cache outlives the view.
    CacheKept,
    /// What a worker knows of a file outlives the view.
    InfoKept,
    /// The kernel drops what is there and does not wait for READs.
    InvalDoesNotWait,
    /// READs are answered before the pins that they ask for are held.
    PinsNotAwaited,
    /// READs learn that a file is watched after control looked what changed.
    WatchedLate,
    /// A worker looks whether a file is watched before it notes what it answers.
    NotedAfterWatched,
    /// Pages are stored whoever sees something else.
    StoreNotHeld,
    /// Pages that were held back are stored in whatever state.
    HeldStoreGoesOn,
    /// A watch begins while a transaction is passing.
    SetupWhilePassing,
    /// A watch moves on as if what is under way were answered.
    UnpinBlind,
    /// READs go on when the link of a client ends, whether it lives or not.
    DyingGoesOn,
    /// A watch is not told of what was given since notes were taken last.
    NotesNotTaken,
    /// A watch begins when nobody knows what the kernel has of the file.
    WatchedIncomplete,
    /// The history forgets what somebody sees.
    ForgetsWatched,
    /// Blocks are pinned to a revision too new.
    RevTooNew,
    /// Blocks are pinned to where the history begins, however short the file is there.
    RevTooShort,
    /// Nobody asks about blocks behind the end of the file.
    BeyondNotAsked,
    /// Nobody tells the kernel that files are shorter.
    NotShortened,
    /// Nobody asks for sizes when pages are dropped.
    SizesNotAsked,
    /// What was taken to be stored and is given up when head moves on counts as stored.
    NotGivenBack,
    /// READs of what was taken to be stored are not counted before it is.
    MetAtTaking,
    /// Who stores a piece counts what READs counted of it.
    CountedAgain,
    /// Pages that are stored are counted by READs of them too.
    MetCounted,
    /// What is taken of a block is not noted any more.
    NotedUntilTaken,
    /// READs that were on their way when a block is complete are first touches.
    LateTouches,
    /// A piece is not remembered when it is stored.
    PieceForgotten,
    /// What cannot be stored is tried again.
    TriedAgain,
    /// What was noted of a block outlives its change.
    NotesOutlive,
    /// What is read with O_DIRECT counts as what is in the page cache.
    DirectNoted,
    /// A parked store goes on under the new view. No mistake: it starts from the beginning, as a READ does.
    StoreGoesOn,
}

/// How a world is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) mutant: Option<Mutant>,
    /// Whether the graph of who waits for whom is looked at, beside what comes of it.
    pub(crate) graph: bool,
    /// The mistake of letting the attributes in a LOOKUP's answer be used: a drop may have overtaken it.
    pub(crate) crossed: bool,
    /// Whether zeros behind the end of a file are held against it too when its attributes have expired, and nobody asked.
    pub(crate) unasked: bool,
    /// Whether the kernel fills a page up with zeros behind what was the end of the file when somebody looked.
    pub(crate) fills: bool,
    /// Whether there are clients that watch.
    pub(crate) clients: bool,
    /// Say what happens.
    pub(crate) trace: bool,
}

impl Rules {
    pub(crate) const NORMAL: Self = Self {
        mutant: None,
        graph: true,
        crossed: false,
        unasked: false,
        fills: false,
        clients: true,
        trace: false,
    };

    /// A mistake that needs no clients is found sooner without.
    pub(crate) fn alone(mutant: Mutant) -> Self {
        Self {
            clients: false,
            ..Self::with(mutant)
        }
    }

    pub(crate) fn with(mutant: Mutant) -> Self {
        Self {
            mutant: Some(mutant),
            ..Self::NORMAL
        }
    }
}
