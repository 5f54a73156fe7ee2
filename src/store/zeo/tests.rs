//! The session against a model of a server: scripted runs as transcripts, and runs made of chance.

mod random;
mod script;
mod world;
