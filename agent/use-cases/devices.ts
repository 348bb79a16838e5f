/**
 * Devices in bulk, between the registry and the management interface: what an
 * operator imports and exports, and what follows for bindings and grants.
 */
import type { DeviceUseCases } from '../api/device-routes.ts';
import type { Log } from '../core/ports.ts';
import { slicesOf } from '../core/slices.ts';
import { rowWriter } from '../directory/device-rows.ts';
import type { RegistryStore, Snapshot } from '../directory/registry-store.ts';
import type { Bindings } from '../grants/bindings.ts';
import type { Grants } from '../grants/grants.ts';
import { mtcUserOf } from '../policy/policy-index.ts';
import type { DeviceImports } from './device-imports.ts';

interface Parts {
  readonly registry: RegistryStore;
  readonly imports: DeviceImports;
  readonly bindings: Bindings;
  readonly grants: Grants;
  readonly log: Log;
}

export function deviceUseCases({ registry, imports, bindings, grants, log }: Parts): DeviceUseCases {
  return {
    async importDevices({ dryRun, ...order }, bytes, isLeft, byUid) {
      if (imports.underWay)
        return { refused: 'importUnderWay', why: 'another import is under way; wait until it is done' };
      log.info({ ...order, dryRun, byUid }, 'importAsked');
      const mtcUsers = [...grants.policy.mtcUsers.values()].map(({ name, devices }) => ({ name, devices }));
      const { imported, isCommitted } = await imports.run({ order, mtcUsers }, bytes, () => !dryRun && !isLeft());
      if ('issues' in imported) {
        const lines = [...imported.issues, ...(imported.more > 0 ? [`and ${imported.more} more`] : [])];
        return { refused: 'devicesNotImported', why: `nothing was imported\n${lines.join('\n')}` };
      }
      const { size: registered } = registry;
      if (isCommitted) {
        log.info({ ...imported, registered, byUid }, 'devicesImported');
        await bindings.followRegistry();
        if (grants.policy.readsAttributes) await grants.review();
      }
      return { ...imported, dryRun, registered };
    },
    async *exportDevices(format, byUid) {
      log.info({ format, byUid }, 'exportAsked');
      const { policy } = grants;
      const snapshot = registry.snapshot();
      try {
        const { header, line } = rowWriter(format, format === 'csv' ? await attributeNames(snapshot) : []);
        yield header;
        for await (const devices of slicesOf(snapshot.devices())) {
          yield devices.map((device) => line({ device, mtcUser: mtcUserOf(policy, device.externalId)?.name })).join('');
        }
      } finally {
        snapshot.close();
      }
    },
  };
}

/** Of all devices, each once. */
async function attributeNames(snapshot: Snapshot): Promise<readonly string[]> {
  const names = new Set<string>();
  for await (const devices of slicesOf(snapshot.devices()))
    for (const { attributes = {} } of devices) for (const name of Object.keys(attributes)) names.add(name);
  return [...names].sort();
}
