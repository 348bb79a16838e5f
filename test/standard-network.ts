/**
 * The network that demo and most kernel tests stand in:
 *
 *   server   198.51.100.10, .11  2001:db8:51::10, ::11 ─┐
 *                                                      wan ─(outside) gateway (inside)─ device
 *   rogue    192.0.2.66          2001:db8:66::66 ───────┘
 *
 * The server has a second address in the same prefix: the same class, yet not
 * the granted address; it is used only where a socket is bound to it. `wan`
 * is the network's core: it routes, and it routes both pools to the gateway,
 * as the operator's upstream router does (nothing on the gateway answers ARP
 * for them). The device holds one host address and sends all through the
 * gateway, as a UE does.
 */
import { fileURLToPath } from 'node:url';
import { Network, type Plan } from './network.ts';

export const SERVER = { ipv4: '198.51.100.10', ipv6: '2001:db8:51::10' } as const;
export const SERVER_SECOND = { ipv4: '198.51.100.11', ipv6: '2001:db8:51::11' } as const;
export const SERVER_PREFIX = { ipv4: '198.51.100.0/24', ipv6: '2001:db8:51::/48' } as const;
export const ROGUE = { ipv4: '192.0.2.66', ipv6: '2001:db8:66::66' } as const;
/** The gateway's address on the outside, where its API listens. */
export const GATEWAY = { ipv4: '192.0.2.2', ipv6: '2001:db8:0:1::2' } as const;
/** The next hop of everything outside. */
export const UPSTREAM = { ipv4: '192.0.2.1', ipv6: '2001:db8:0:1::1' } as const;
/** The gateway's address in the realm. */
export const INNER_GATEWAY = { ipv4: '10.20.0.1', ipv6: 'fd00:20::1' } as const;
export const DEVICE = { ipv4: '10.20.0.2', ipv6: 'fd00:20::2' } as const;
export const REALM_PREFIX = { ipv4: '10.20.0.0/16', ipv6: 'fd00:20::/48' } as const;
export const GRANTS_POOL = { ipv4: '203.0.113.0/29', ipv6: '2001:db8:a::/64' } as const;
export const EGRESS_POOL = { ipv4: '203.0.113.8/29', ipv6: '2001:db8:e::/64' } as const;

/** The gateway's interfaces. */
export const OUTSIDE = 'outside';
export const INSIDE = 'inside';
/** The interface of every other namespace; of `wan`, the one toward the gateway. */
export const UPLINK = 'eth0';

const ONE_DEVICE: Plan = {
  namespaces: {
    device: {
      routes: [
        `${INNER_GATEWAY.ipv4} dev ${UPLINK} scope link`,
        `default via ${INNER_GATEWAY.ipv4} dev ${UPLINK}`,
        `${INNER_GATEWAY.ipv6} dev ${UPLINK}`,
        `default via ${INNER_GATEWAY.ipv6} dev ${UPLINK}`,
      ],
    },
  },
  links: [
    [
      {
        namespace: 'gateway',
        interface: INSIDE,
        addresses: [`${INNER_GATEWAY.ipv4}/16`, `${INNER_GATEWAY.ipv6}/48`],
      },
      { namespace: 'device', interface: UPLINK, addresses: [`${DEVICE.ipv4}/32`, `${DEVICE.ipv6}/128`] },
    ],
  ],
};

/** Namespaces `server`, `rogue`, `wan`, `gateway` and what is inside, joined as drawn above. */
export function standardNetwork(inside: Plan = ONE_DEVICE): Network {
  return Network.create({
    outside: {
      namespace: 'wan',
      interface: UPLINK,
      namespaces: ['wan', 'server', 'rogue'],
      inner: [REALM_PREFIX.ipv4, REALM_PREFIX.ipv6],
    },
    namespaces: {
      server: { routes: ['default via 198.51.100.1', 'default via 2001:db8:51::1'] },
      rogue: { routes: ['default via 192.0.2.65', 'default via 2001:db8:66::1'] },
      wan: {
        forwards: true,
        routes: [
          ...[GRANTS_POOL.ipv4, EGRESS_POOL.ipv4].map((pool) => `${pool} via ${GATEWAY.ipv4}`),
          ...[GRANTS_POOL.ipv6, EGRESS_POOL.ipv6].map((pool) => `${pool} via ${GATEWAY.ipv6}`),
        ],
      },
      gateway: { forwards: true, routes: [`default via ${UPSTREAM.ipv4}`, `default via ${UPSTREAM.ipv6}`] },
      ...inside.namespaces,
    },
    links: [
      [
        {
          namespace: 'server',
          interface: UPLINK,
          addresses: [
            `${SERVER.ipv4}/24`,
            `${SERVER_SECOND.ipv4}/24`,
            `${SERVER.ipv6}/64`,
            `${SERVER_SECOND.ipv6}/64 preferred_lft 0`,
          ],
        },
        { namespace: 'wan', interface: 'server', addresses: ['198.51.100.1/24', '2001:db8:51::1/64'] },
      ],
      [
        { namespace: 'rogue', interface: UPLINK, addresses: [`${ROGUE.ipv4}/26`, `${ROGUE.ipv6}/64`] },
        { namespace: 'wan', interface: 'rogue', addresses: ['192.0.2.65/26', '2001:db8:66::1/64'] },
      ],
      [
        { namespace: 'wan', interface: UPLINK, addresses: [`${UPSTREAM.ipv4}/30`, `${UPSTREAM.ipv6}/64`] },
        { namespace: 'gateway', interface: OUTSIDE, addresses: [`${GATEWAY.ipv4}/30`, `${GATEWAY.ipv6}/64`] },
      ],
      ...inside.links,
    ],
  });
}

/** Run as a program, it stands until it is stopped, and prints the gateway's namespace: to look around in. */
if (process.argv[1] === fileURLToPath(import.meta.url)) {
  process.stdout.write(`${standardNetwork().name('gateway')}\n`);
  setInterval(() => {}, 1 << 30);
}
