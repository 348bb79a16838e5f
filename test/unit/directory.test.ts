import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { address, prefix } from '../../agent/core/net.ts';
import type { Device, ExternalId, InnerAddress, RealmName } from '../../agent/core/words.ts';
import { type Binding, type Change, rangeOf } from '../../agent/directory/binding.ts';
import { Directory, type DirectoryRefusal } from '../../agent/directory/directory.ts';
import { openRegistry } from '../../agent/directory/registry-store.ts';
import { IDENTITIES } from '../identities.ts';

const id = (name: string) => `${name}@meters.example` as ExternalId;
const at = (text: string, realm = 'iot'): InnerAddress => ({ realm: realm as RealmName, address: address(text) });
const held = (device: string, text: string, source: Binding['source'] = 'management'): Binding => ({
  ...rangeOf('iot' as RealmName, address(text)),
  holder: id(device),
  target: address(text),
  source,
  sinceMs: 1,
});
const DEVICES: Device[] = [
  { externalId: id('m1'), msisdn: '491700000001' as never, imsi: '001010000000001' as never },
  { externalId: id('m2') },
  { externalId: id('m3') },
];

const registry = openRegistry(':memory:', IDENTITIES);
await registry.replaceFile(DEVICES);
const none = new Set<ExternalId>();

function directory(...bindings: Binding[]): Directory {
  const made = new Directory(registry);
  for (const binding of bindings) made.apply({ losses: [], gains: [binding] });
  return made;
}

function change(plan: Change | DirectoryRefusal): Change {
  if ('refused' in plan) throw new Error(`refused: ${plan.refused}`);
  return plan;
}

describe('finding a device', () => {
  test('by external identifier, the domain in any case, and by MSISDN', () => {
    const own = directory();
    expect(own.find({ networkAccessIdentifier: 'm1@METERS.example' })?.externalId).toBe('m1@meters.example');
    expect(own.find({ networkAccessIdentifier: 'M1@meters.example' })).toBeUndefined();
    expect(own.find({ phoneNumber: '+491700000001' })?.externalId).toBe('m1@meters.example');
    expect(own.find({ phoneNumber: '+491700000002' })).toBeUndefined();
    expect(own.find({ networkAccessIdentifier: 'no identifier' })).toBeUndefined();
  });

  test('an operator also by IMSI', () => {
    const own = directory();
    for (const name of ['m1@meters.example', '+491700000001', '491700000001', '001010000000001'])
      expect(own.named(name)?.externalId).toBe('m1@meters.example');
    for (const name of ['m4@meters.example', '+001010000000001', '001010000000002', 'm1'])
      expect(own.named(name)).toBeUndefined();
  });
});

describe('an address changes hands', () => {
  test('a free address: nobody loses', () => {
    const own = directory();
    const plan = change(own.planBind(held('m1', '10.20.0.2')));
    expect(plan.losses).toEqual([]);
    own.apply(plan);
    expect(own.bindingOf(id('m1'), 'ipv4')?.target.text).toBe('10.20.0.2');
    expect(own.familiesOf(id('m1'))).toEqual(['ipv4']);
  });

  test('taken from another device, which had it; the taker gives its former one up', () => {
    const own = directory(held('m1', '10.20.0.2'), held('m2', '10.20.0.3'));
    const plan = change(own.planBind(held('m2', '10.20.0.2')));
    expect(plan.losses.map(({ binding, cause }) => [binding.holder, binding.target?.text, cause])).toEqual([
      [id('m1'), '10.20.0.2', 'addressReassigned'],
      [id('m2'), '10.20.0.3', 'deviceUnbound'],
    ]);
    own.apply(plan);
    expect(own.bindingOf(id('m1'), 'ipv4')).toBeUndefined();
    expect(own.holderOf(at('10.20.0.2'))?.holder).toBe(id('m2'));
    expect(own.holderOf(at('10.20.0.3'))).toBeUndefined();
  });

  test('the same address in another realm is another address', () => {
    const own = directory(held('m1', '10.20.0.2'));
    expect(change(own.planBind({ ...held('m2', '10.20.0.2'), realm: 'cars' as RealmName })).losses).toEqual([]);
  });

  test('one family does not touch the other', () => {
    const own = directory(held('m1', '10.20.0.2'));
    own.apply(change(own.planBind(held('m1', 'fd00:20::2'))));
    expect(own.familiesOf(id('m1'))).toEqual(['ipv4', 'ipv6']);
  });

  test("between begin and apply it is nobody's; cancelled, it is as before", () => {
    const own = directory(held('m1', '10.20.0.2'));
    const plan = change(own.planBind(held('m2', '10.20.0.2')));
    own.begin(plan);
    expect(own.bindingOf(id('m1'), 'ipv4')).toBeUndefined();
    expect(own.familiesOf(id('m1'))).toEqual([]);
    own.cancel(plan);
    expect(own.bindingOf(id('m1'), 'ipv4')?.target.text).toBe('10.20.0.2');
  });

  test('binding it to who has it already changes nothing', () => {
    const own = directory(held('m1', '10.20.0.2'));
    expect(own.planBind(held('m1', '10.20.0.2'))).toEqual({ losses: [], gains: [] });
  });
});

describe('what is not done', () => {
  const refusal = (reason: string) => expect.objectContaining({ refused: reason });

  test('binding a device that the devices file does not know', () => {
    expect(directory().planBind(held('stranger', '10.20.0.2'))).toEqual(refusal('deviceUnknown'));
  });

  test('taking from the devices file what it binds', () => {
    const own = directory(held('m1', '10.20.0.2', 'file'));
    expect(own.planBind(held('m2', '10.20.0.2'))).toEqual(refusal('addressBoundByFile'));
    expect(own.planBind(held('m1', '10.20.0.9'))).toEqual(refusal('deviceBoundByFile'));
    expect(own.planUnbind(at('10.20.0.2'))).toEqual(refusal('addressBoundByFile'));
  });

  test('unbinding what is not bound', () => {
    expect(directory().planUnbind(at('10.20.0.2'))).toEqual(refusal('notBound'));
  });
});

describe('what accounting binds', () => {
  const prefixOf = (device: string, text: string, target?: string): Binding => ({
    realm: 'iot' as RealmName,
    prefix: prefix(text),
    holder: id(device),
    ...(target && { target: address(target) }),
    source: 'accounting',
    sinceMs: 1,
  });

  test('may be several addresses of a device: grants lead to the one that was bound last', () => {
    const own = directory(held('m1', '10.20.0.2', 'accounting'), held('m1', '10.20.0.3', 'accounting'));
    expect(own.bindingOf(id('m1'), 'ipv4')?.target.text).toBe('10.20.0.3');
    for (const text of ['10.20.0.2', '10.20.0.3']) expect(own.holds(id('m1'), at(text))).toBe(true);
    own.apply(change(own.planUnbind(at('10.20.0.3'))));
    expect(own.bindingOf(id('m1'), 'ipv4')?.target.text).toBe('10.20.0.2');
    expect(own.holds(id('m1'), at('10.20.0.3'))).toBe(false);
  });

  test('a prefix without a target is bound, and grants lead nowhere', () => {
    const own = directory(prefixOf('m1', 'fd00:20:0:1::/64'));
    expect(own.familiesOf(id('m1'))).toEqual(['ipv6']);
    expect(own.bindingOf(id('m1'), 'ipv6')).toBeUndefined();
    expect(own.holderOf(at('fd00:20:0:1::5'))?.holder).toBe(id('m1'));
    expect(own.holds(id('m1'), at('fd00:20:0:1::5'))).toBe(false);
  });

  test("an operator takes: the address that is another device's, and the prefix that it lies in", () => {
    const own = directory(prefixOf('m1', 'fd00:20:0:1::/64', 'fd00:20:0:1::5'));
    const plan = change(own.planBind(held('m2', 'fd00:20:0:1::9')));
    expect(plan.losses.map(({ binding, cause }) => [binding.prefix.text, cause])).toEqual([
      ['fd00:20:0:1::/64', 'addressReassigned'],
    ]);
  });

  test('a devices file takes it where it says otherwise, and leaves it where it says nothing', () => {
    const own = directory(held('m1', '10.20.0.2', 'accounting'), held('m2', '10.20.0.3', 'accounting'));
    const plan = own.planFile(none, [held('m3', '10.20.0.2', 'file'), held('m2', '10.20.0.3', 'file')]);
    expect(plan.losses.map(({ binding, cause }) => [binding.holder, cause])).toEqual([[id('m1'), 'addressReassigned']]);
    own.apply(plan);
    expect(own.bindings().map(({ holder, source }) => [holder, source])).toEqual([
      [id('m3'), 'file'],
      [id('m2'), 'file'],
    ]);
  });

  test('goes on where its device is registered no more: its session goes on', () => {
    const own = directory(held('m1', '10.20.0.2', 'accounting'), held('m2', '10.20.0.3'));
    const gone = new Set([id('m1'), id('m2')]);
    expect(own.planGone(gone).losses.map(({ binding }) => binding.holder)).toEqual([id('m2')]);
  });
});

describe('the device that a subscriber is', () => {
  const told = (names: Partial<Record<'imsi' | 'msisdn' | 'externalId', string>>) =>
    directory().deviceOf({ imsi: undefined, msisdn: undefined, externalId: undefined, ...names } as never);
  test('by any of its names; of two devices it is neither', () => {
    expect(told({ imsi: '001010000000001' })).toBe(id('m1'));
    expect(told({ imsi: '001010000000009', msisdn: '491700000001' })).toBe(id('m1'));
    expect(told({ imsi: '001010000000001', externalId: id('m2') })).toBe('contradiction');
    expect(told({ imsi: '001010000000009' })).toBeUndefined();
  });
});

describe('a new devices file', () => {
  test('unbinds what it no longer binds, and leaves what management bound', () => {
    const own = directory(held('m1', '10.20.0.2', 'file'), held('m2', '10.20.0.3'));
    const plan = own.planFile(none, []);
    expect(plan.losses.map(({ binding, cause }) => [binding.holder, cause])).toEqual([[id('m1'), 'deviceUnbound']]);
  });

  test('wins over management: for the address, and for the device', () => {
    const own = directory(held('m1', '10.20.0.2'), held('m2', '10.20.0.3'));
    const plan = own.planFile(none, [held('m3', '10.20.0.2', 'file'), held('m2', '10.20.0.4', 'file')]);
    expect(plan.losses.map(({ binding, cause }) => [binding.holder, binding.target?.text, cause])).toEqual([
      [id('m2'), '10.20.0.3', 'deviceUnbound'],
      [id('m1'), '10.20.0.2', 'addressReassigned'],
    ]);
    own.apply(plan);
    expect(own.bindings().map(({ holder, target, source }) => [holder, target?.text, source])).toEqual([
      [id('m3'), '10.20.0.2', 'file'],
      [id('m2'), '10.20.0.4', 'file'],
    ]);
  });

  test('unbinds devices that it no longer knows', () => {
    const own = directory(held('m1', '10.20.0.2'));
    expect(own.planFile(new Set([id('m1')]), []).losses).toHaveLength(1);
  });

  test('the same file again changes nothing', () => {
    const file = [held('m1', '10.20.0.2', 'file'), held('m1', 'fd00:20::2', 'file')];
    expect(directory(...file).planFile(none, file)).toEqual({ losses: [], gains: [] });
  });
});

test('whatever is bound and unbound: one holder an address, one address a device and family, each loss named', () => {
  const names = ['m1', 'm2', 'm3'];
  const addresses = ['10.20.0.2', '10.20.0.3', 'fd00:20::2'];
  const step = fc.record({
    unbind: fc.boolean(),
    device: fc.constantFrom(...names),
    text: fc.constantFrom(...addresses),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
      const own = directory();
      for (const { unbind, device, text } of steps) {
        const before = own.bindings();
        const plan = unbind ? own.planUnbind(at(text)) : own.planBind(held(device, text));
        if ('refused' in plan) continue;
        own.apply(plan);
        const after = own.bindings();
        const addresses = after.map(({ target }) => target?.text);
        const kept = after.map(({ holder, prefix }) => `${holder} ${prefix.family}`);
        expect(new Set(addresses).size).toBe(addresses.length);
        expect(new Set(kept).size).toBe(kept.length);
        const named = (binding: Binding) => `${binding.holder} ${binding.target?.text}`;
        const lost = before.filter((one) => !after.some((two) => named(two) === named(one)));
        expect(plan.losses.map(({ binding }) => named(binding)).sort()).toEqual(lost.map(named).sort());
      }
    }),
  );
});
