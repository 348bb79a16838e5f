/**
 * The network that agent.yaml.example and the README stand in, so that their
 * commands run as they are written:
 *
 *   server  198.51.100.10 ─┐
 *                          wan ─ 192.0.2.1 ── (eth0) gateway (pgw0) ── device 10.20.0.2, fd00:20::2
 *   rogue   198.18.0.66   ─┘
 *
 * The gateway forwards nothing yet: to switch that on is the service's part.
 */
import { Network } from '../network.ts';

export const SERVER = { ipv4: '198.51.100.10', ipv6: '2001:db8:51::10' } as const;
export const DEVICE = { ipv4: '10.20.0.2', ipv6: 'fd00:20::2' } as const;

export function readmeNetwork(): Network {
  return Network.create({
    outside: {
      namespace: 'wan',
      interface: 'eth0',
      namespaces: ['wan', 'server', 'rogue'],
      inner: ['10.20.0.0/16', 'fd00:20::/48'],
    },
    namespaces: {
      server: { routes: ['default via 198.51.100.1', 'default via 2001:db8:51::1'] },
      rogue: { routes: ['default via 198.18.0.1'] },
      wan: {
        forwards: true,
        routes: [
          '203.0.113.0/28 via 192.0.2.10', // both pools
          '2001:db8:a::/64 via 2001:db8::10',
          '2001:db8:b::/64 via 2001:db8::10',
          // As if somebody had leaked them: the gateway is what keeps them closed.
          '10.20.0.0/16 via 192.0.2.10',
          'fd00:20::/48 via 2001:db8::10',
        ],
      },
      gateway: { routes: ['default via 192.0.2.1', 'default via 2001:db8::1'] },
      device: { routes: ['default via 10.20.0.1', 'default via fd00:20::1'] },
    },
    links: [
      [
        { namespace: 'server', interface: 'eth0', addresses: [`${SERVER.ipv4}/24`, `${SERVER.ipv6}/64`] },
        { namespace: 'wan', interface: 'server', addresses: ['198.51.100.1/24', '2001:db8:51::1/64'] },
      ],
      [
        { namespace: 'rogue', interface: 'eth0', addresses: ['198.18.0.66/24'] },
        { namespace: 'wan', interface: 'rogue', addresses: ['198.18.0.1/24'] },
      ],
      [
        { namespace: 'wan', interface: 'eth0', addresses: ['192.0.2.1/24', '2001:db8::1/64'] },
        { namespace: 'gateway', interface: 'eth0', addresses: ['192.0.2.10/24', '2001:db8::10/64'] },
      ],
      [
        { namespace: 'gateway', interface: 'pgw0', addresses: ['10.20.0.1/16', 'fd00:20::1/48'] },
        { namespace: 'device', interface: 'eth0', addresses: [`${DEVICE.ipv4}/16`, `${DEVICE.ipv6}/48`] },
      ],
    ],
  });
}
