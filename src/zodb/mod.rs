//! zodb
