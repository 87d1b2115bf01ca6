// Follows the ConfigMaps labelled `app=seen` with the official JavaScript client's informer, which is started again when it fails, as its
// documentation says. A line for each thing it learns: what, name, the value of the key `round`.
import { CoreV1Api, KubeConfig, makeInformer } from '@kubernetes/client-node';

const selector = 'app=seen';
const config = new KubeConfig();
config.loadFromDefault();
const api = config.makeApiClient(CoreV1Api);
const list = () => api.listNamespacedConfigMap({ namespace: 'default', labelSelector: selector });
const informer = makeInformer(config, '/api/v1/namespaces/default/configmaps', list, selector);
const tell = (what) => (item) => console.log(what, item.metadata.name, item.data?.round);
informer.on('add', tell('ADDED'));
informer.on('update', tell('MODIFIED'));
informer.on('delete', tell('DELETED'));
const start = () => informer.start().catch(() => setTimeout(start, 50));
informer.on('error', () => setTimeout(start, 50));
await start();
console.log('FOLLOWS', '-', '-');
