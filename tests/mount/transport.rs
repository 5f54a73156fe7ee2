//! A test for each transport.

/// Makes of each `fn name(Transport)` the tests `name::uring`, `name::dev` and `name::plain`.
macro_rules! on_each_transport {
    ($($name:ident),* $(,)?) => {
        $(mod $name {
            use crate::machine::Transport;

            #[test]
            fn uring() {
                super::$name(Transport::Uring);
            }

            #[test]
            fn dev() {
                super::$name(Transport::Dev);
            }

            #[test]
            fn plain() {
                super::$name(Transport::Plain);
            }
        })*
    };
}
pub(crate) use on_each_transport;
