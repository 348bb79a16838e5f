/**
 * Where the gateway stands: its wires, their ends, and who holds which address.
 * Its neighbours are bare ends of wires, without addresses: nothing is on them
 * but what the test sends, and nobody answers but the test.
 *
 *   wan ─(outside) gateway (inside1)─ realm one
 *                          (inside2)─ realm two
 */

import { type Address, address, contains, prefix } from '../../../agent/core/net.ts';
import type { RealmName } from '../../../agent/core/words.ts';
import { type Binding, type Holder, rangeOf } from '../../../agent/directory/binding.ts';
import { Network } from '../../network.ts';

export type Place = 'outside' | 'one' | 'two';
export const PLACES: readonly Place[] = ['outside', 'one', 'two'];
export const INTERFACES: Readonly<Record<Place, string>> = { outside: 'outside', one: 'inside1', two: 'inside2' };
export const WIRES: Readonly<Record<Place, string>> = { outside: 'wan', one: 'device1', two: 'device2' };

const UPSTREAM = ['192.0.2.1', '2001:db8:0:1::1'] as const;
const OWN = {
  outside: ['192.0.2.2', '2001:db8:0:1::2'],
  one: ['10.20.0.1', 'fd00:20::1'],
  two: ['10.30.0.1', 'fd00:30::1'],
} as const;

/** Who holds which address; of the last, nobody knows the holder. */
export const DEVICES = [
  { name: 'a@m1.example', place: 'one', ipv4: '10.20.0.2', ipv6: 'fd00:20::2', attributes: { model: 'M1' } },
  { name: 'b@m2.example', place: 'one', ipv4: '10.20.0.3', ipv6: 'fd00:20::3', attributes: { model: 'M2' } },
  { name: 'c@m2.example', place: 'two', ipv4: '10.30.0.2', ipv6: 'fd00:30::2', attributes: { model: 'M1' } },
  { name: undefined, place: 'one', ipv4: '10.20.0.9', ipv6: 'fd00:20::9', attributes: {} },
] as const;

/** A neighbour on every link, which the gateway tells that it forwards nothing of it. */
export const LINK_LOCAL_NEIGHBOUR = 'fe80::5';

/** The prefixes of the realms. */
const REALMS_OF = {
  one: ['10.20.0.0/16', 'fd00:20::/48'].map(prefix),
  two: ['10.30.0.0/16', 'fd00:30::/48'].map(prefix),
} as const;
export const REALMS = [...REALMS_OF.one, ...REALMS_OF.two];

/** Where a packet to an address goes. */
export function placeOf(host: Address): Place {
  return (['one', 'two'] as const).find((place) => REALMS_OF[place].some((one) => contains(one, host))) ?? 'outside';
}

const LINK_LOCAL = prefix('fe80::/10');
const OWN_ADDRESSES: ReadonlySet<string> = new Set([...Object.values(OWN).flat(), '127.0.0.1', '::1']);
export function isOwn(host: Address): boolean {
  return OWN_ADDRESSES.has(host.text) || contains(LINK_LOCAL, host) || host.text === '::';
}

/** The number of a realm in the gate. */
export function realmId(realm: string): number {
  return realm === 'one' ? 1 : 2;
}

export function deviceOf(name: string) {
  return DEVICES.find((one) => one.name === name);
}

/** Whom no registry knows holds addresses, too. */
export function bindings(): Binding[] {
  return DEVICES.flatMap(({ name, place, ipv4, ipv6 }) =>
    [ipv4, ipv6].map((text) => ({
      ...rangeOf(place as unknown as RealmName, address(text)),
      holder: (name ?? 'imsi:262010000000009') as Holder,
      target: address(text),
      source: 'accounting' as const,
      sinceMs: 0,
    })),
  );
}

export function buildNetwork(): Network {
  const width = (text: string, four: number, six: number) => `${text}/${text.includes(':') ? six : four}`;
  const end = (place: Place) => ({
    namespace: 'gateway',
    interface: INTERFACES[place],
    addresses: OWN[place].map((text) => (place === 'outside' ? width(text, 30, 64) : width(text, 16, 48))),
  });
  const wire = (place: Place) => ({ namespace: 'neighbours', interface: WIRES[place], addresses: [] });
  return Network.create({
    namespaces: {
      gateway: { forwards: true, routes: UPSTREAM.map((hop) => `default via ${hop}`) },
      neighbours: {},
    },
    links: PLACES.map((place) => [end(place), wire(place)] as const),
  });
}

/** The neighbours are known without being asked, and have no IPv6 of their own to speak. */
export async function bareNeighbours(network: Network): Promise<void> {
  const hosts: readonly (readonly [string, Place])[] = [
    ...UPSTREAM.map((hop) => [hop, 'outside'] as const),
    ...DEVICES.flatMap(({ ipv4, ipv6, place }) => [ipv4, ipv6].map((host) => [host, place] as const)),
    ...PLACES.map((place) => [LINK_LOCAL_NEIGHBOUR, place] as const),
  ];
  const lines = hosts.map(([host, place]) => {
    const { mac } = network.link('neighbours', WIRES[place]);
    return `neighbour replace ${host} lladdr ${mac} nud permanent dev ${INTERFACES[place]}`;
  });
  await network.run('neighbours', ['sh', '-c', 'echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6']);
  await network.run('gateway', ['ip', '-batch', '-'], { input: lines.join('\n') });
}
