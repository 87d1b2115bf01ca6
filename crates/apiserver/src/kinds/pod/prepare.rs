//! What a write of a pod may not touch, and what follows from it: status, generation, quality of service.

use serde_json::{Value, json};

use super::qos;
use crate::kinds::common::{get, meta};

pub fn create(pod: &mut Value) {
    let class = qos::class(pod);
    meta::start(pod, json!({"phase": "Pending", "qosClass": class}));
    if !get::list(pod, "/spec/schedulingGates").is_empty() {
        let condition = json!({
            "type": "PodScheduled",
            "status": "False",
            "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
        });
        get::set(pod, "/status/conditions", json!([condition]));
    }
}

pub fn update(new: &mut Value, old: &Value) {
    meta::keep_status_move_generation(new, old, &["/spec"]);
}

pub fn status(new: &mut Value, old: &Value) {
    meta::prepare_status(new, old);
    if get::text(new, "/status/qosClass").is_empty() {
        get::copy(new, old, "/status/qosClass");
    }
}
