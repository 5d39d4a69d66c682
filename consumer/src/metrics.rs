//! A way to declare metrics whose help texts are their doc comments.
//!
//! Owns no metric: each set is declared beside the type that counts it, in `delivery.rs`, `execute.rs`, `leases.rs`,
//! `outcome.rs` and `sweeper.rs`.

/// Declares a struct of metrics with `new`, and `register`, which takes each field's doc comment as its help text.
macro_rules! metrics {
    (
        $(#[$about:meta])*
        $vis:vis struct $name:ident {
            $( $(#[doc = $help:literal])+ $field:ident ($metric:literal): $type:ty = $initial:expr, )+
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug)]
        $vis struct $name {
            $( $(#[doc = $help])+ $vis $field: $type, )+
        }

        impl $name {
            $vis fn new() -> Self {
                Self { $( $field: $initial, )+ }
            }

            /// The encoder ends each help text with a full stop and each counter's name with `_total`.
            $vis fn register(&self, registry: &mut prometheus_client::registry::Registry) {
                $( registry.register(
                    $metric,
                    concat!($($help),+).trim().trim_end_matches('.'),
                    self.$field.clone(),
                ); )+
            }
        }
    };
}

pub(crate) use metrics;
