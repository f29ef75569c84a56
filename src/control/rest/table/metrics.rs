//! The columns and cells of what is measured.
//!
//! Source: metrics-server, `pkg/api/table.go`.

use serde_json::Value;

use super::kinds::name;
use super::{Column, Layout, list, text};
use crate::api::quantity::Quantity;

const COLUMNS: &[Column] = &[
    Column::name(),
    Column { format: "quantity", ..Column::text("cpu", "Processors that are taken.") },
    Column { format: "quantity", ..Column::text("memory", "The working set.") },
    Column { format: "duration", ..Column::text("Window", "How long was measured.") },
];

pub(super) static NODE_METRICS: Layout = Layout {
    columns: COLUMNS,
    cells: |object, _| {
        vec![
            name(object),
            text(object, "/usage/cpu").into(),
            text(object, "/usage/memory").into(),
            text(object, "/window").into(),
        ]
    },
};

pub(super) static POD_METRICS: Layout = Layout {
    columns: COLUMNS,
    cells: |object, _| {
        let sum = |pointer: &str| -> Value {
            let amounts =
                list(object, "/containers").iter().filter_map(|container| text(container, pointer).parse().ok());
            amounts.sum::<Quantity>().to_string().into()
        };
        vec![name(object), sum("/usage/cpu"), sum("/usage/memory"), text(object, "/window").into()]
    },
};
