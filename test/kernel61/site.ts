/**
 * The gateway that the guest is, as files: what its operator wrote to
 * /etc/mtgate, certificates included, and the wires that its interfaces hang
 * on, as `ip -batch` reads them. Who is who is the standard network's, with
 * the whole outside in one namespace:
 *
 *   pdn: server, rogue, upstream ── (sgi0) gateway (pgw0) ── device
 *
 * The gateway is the guest itself, since its units are what is tested.
 */
import { chmodSync, copyFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { API_PORT, DEVICES, RULES } from '../agent.ts';
import { createPki } from '../pki.ts';
import {
  DEVICE,
  EGRESS_POOL,
  GATEWAY,
  GRANTS_POOL,
  INNER_GATEWAY,
  REALM_PREFIX,
  ROGUE,
  SERVER,
  UPLINK,
  UPSTREAM,
} from '../standard-network.ts';

/** Named unlike those of test networks: Linux 6.1 refuses to make an interface elsewhere whose name is taken here. */
export const OUTSIDE = 'sgi0';
export const INSIDE = 'pgw0';
/** The namespaces beside the gateway. */
export const PDN = 'pdn';
export const DEVICE_SIDE = 'device';

const AGENT_YAML = `
gateway: gw-6-1
outside: { interface: ${OUTSIDE} }
pools:
  grants: { prefixes: [${GRANTS_POOL.ipv4}, "${GRANTS_POOL.ipv6}"], ports: 20000-29999 }
  egress: { prefixes: [${EGRESS_POOL.ipv4}, "${EGRESS_POOL.ipv6}"] }
inside:
  - { realm: iot, interface: ${INSIDE}, prefixes: [${REALM_PREFIX.ipv4}, "${REALM_PREFIX.ipv6}"] }
api:
  listen: ${GATEWAY.ipv4}:${API_PORT}
  certificate: api.crt
  key: credential:api.key
  clientCAs: [{ name: mtc-ca, file: mtc-ca.crt }]
devices: devices.yaml
`;

const address = (text: string, device: string) =>
  `address add ${text} dev ${device}${text.includes(':') ? ' nodad' : ''}`;
const pools = (family: 'ipv4' | 'ipv6') => [GRANTS_POOL[family], EGRESS_POOL[family], REALM_PREFIX[family]];

const WIRES: Readonly<Record<string, readonly string[]>> = {
  gateway: [
    ...[PDN, DEVICE_SIDE].map((namespace) => `netns add ${namespace}`),
    `link add ${OUTSIDE} type veth peer name ${UPLINK} netns ${PDN}`,
    `link add ${INSIDE} type veth peer name ${UPLINK} netns ${DEVICE_SIDE}`,
    ...[`${GATEWAY.ipv4}/30`, `${GATEWAY.ipv6}/64`].map((one) => address(one, OUTSIDE)),
    ...[`${INNER_GATEWAY.ipv4}/16`, `${INNER_GATEWAY.ipv6}/48`].map((one) => address(one, INSIDE)),
    ...['lo', OUTSIDE, INSIDE].map((name) => `link set ${name} up`),
    ...[UPSTREAM.ipv4, UPSTREAM.ipv6].map((upstream) => `route add default via ${upstream}`),
  ],
  [PDN]: [
    ...[`${UPSTREAM.ipv4}/30`, `${UPSTREAM.ipv6}/64`].map((one) => address(one, UPLINK)),
    ...[SERVER, ROGUE].flatMap(({ ipv4, ipv6 }) => [`${ipv4}/32`, `${ipv6}/128`]).map((one) => address(one, 'lo')),
    ...['lo', UPLINK].map((name) => `link set ${name} up`),
    // The realm's prefix too, as if somebody had leaked it: the gateway is what keeps it closed.
    ...(['ipv4', 'ipv6'] as const).flatMap((family) =>
      pools(family).map((prefix) => `route add ${prefix} via ${GATEWAY[family]}`),
    ),
  ],
  [DEVICE_SIDE]: [
    ...[`${DEVICE.ipv4}/32`, `${DEVICE.ipv6}/128`].map((one) => address(one, UPLINK)),
    ...['lo', UPLINK].map((name) => `link set ${name} up`),
    ...[INNER_GATEWAY.ipv4, INNER_GATEWAY.ipv6].flatMap((gateway) => [
      `route add ${gateway} dev ${UPLINK}`,
      `route add default via ${gateway} dev ${UPLINK}`,
    ]),
  ],
};

/** Where the head end's certificate, its key and its CA lie in the site. */
export const HEAD_END = {
  certificate: 'site/head-end.crt',
  key: 'site/head-end.key',
  ca: 'site/etc/mtgate/mtc-ca.crt',
};

/** Writes it all below a folder. */
export function writeSite(folder: string): void {
  const etc = join(folder, 'etc/mtgate');
  mkdirSync(join(etc, 'rules'), { recursive: true });
  writeFileSync(join(etc, 'agent.yaml'), AGENT_YAML);
  writeFileSync(join(etc, 'rules/rules.yaml'), RULES);
  writeFileSync(join(etc, 'devices.yaml'), DEVICES);
  for (const [name, lines] of Object.entries(WIRES)) writeFileSync(join(folder, `${name}.ip`), `${lines.join('\n')}\n`);

  const pki = createPki();
  try {
    const ca = pki.ca('mtc-ca');
    const api = ca.issue({ name: 'api', usage: ['serverAuth'], san: [`IP:${GATEWAY.ipv4}`] });
    const headEnd = ca.issue({ name: 'head-end', usage: ['clientAuth'], san: ['URI:urn:mtc:head-end'] });
    copyFileSync(ca.certificateFile, join(etc, 'mtc-ca.crt'));
    copyFileSync(api.certificateFile, join(etc, 'api.crt'));
    copyFileSync(api.keyFile, join(etc, 'api.key'));
    chmodSync(join(etc, 'api.key'), 0o600);
    copyFileSync(headEnd.certificateFile, join(folder, 'head-end.crt'));
    copyFileSync(headEnd.keyFile, join(folder, 'head-end.key'));
  } finally {
    pki.remove();
  }
}
