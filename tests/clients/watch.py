"""Follows the ConfigMaps labelled `app=seen` with the official Python client, as a controller does: one list, then watches that go on at the
last version it knows. A line for each thing it learns: what, name, the value of the key `round`."""

import time

import urllib3
from kubernetes import client, config, watch

SELECTOR = "app=seen"


def tell(what, item):
    print(what, item.metadata.name, (item.data or {}).get("round"), flush=True)


config.load_kube_config()
api = client.CoreV1Api()
version = None
while True:
    try:
        if version is None:
            listed = api.list_namespaced_config_map("default", label_selector=SELECTOR)
            for item in listed.items:
                tell("LISTED", item)
            version = listed.metadata.resource_version
            print("FOLLOWS", "-", "-", flush=True)
        events = watch.Watch().stream(
            api.list_namespaced_config_map, "default", label_selector=SELECTOR, resource_version=version
        )
        for event in events:
            tell(event["type"], event["object"])
            version = event["object"].metadata.resource_version
    except client.ApiException as error:
        if error.status == 410:
            print("EXPIRED", "-", "-", flush=True)
            version = None
    except urllib3.exceptions.HTTPError:
        pass
    time.sleep(0.05)
