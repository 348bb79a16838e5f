/** `device`: which device holds which inner address. */
import type { Command } from 'commander';
import type { BindingRow, DeviceDetail } from '../api/operator-rows.ts';
import { msisdnText } from '../core/identities.ts';
import { type Ask, call, json, socket } from './client.ts';
import { registerDeviceRows } from './device-rows.ts';
import { GRANT_COLUMNS } from './grants.ts';
import { explainUse } from './help.ts';
import { print, printJson, printPairs, printRows } from './print.ts';

export function registerDevice(program: Command): void {
  const device = program.command('device').description('devices: which there are, and which holds which inner address');
  explainUse(
    device
      .command('list', { isDefault: true })
      .description('list the bindings')
      .addOption(socket())
      .addOption(json())
      .action(async (ask: Ask) => {
        const rows = await call<BindingRow[]>(ask, 'GET', '/bindings');
        printRows(ask, rows, ['device', 'realm', 'address', 'target', 'source', 'since'], 'no device holds an address');
      }),
    { examples: ['mtgate device list', 'mtgate device list --json'] },
  );

  explainUse(
    device
      .command('show <device>')
      .description('one device: identifiers, bindings now and before, live grants')
      .addOption(socket())
      .addOption(json())
      .action(async (name: string, ask: Ask) => {
        const found = await call<DeviceDetail>(ask, 'GET', `/devices/${encodeURIComponent(name)}`);
        if (ask.json) return printJson(found);
        printPairs([
          ['device', found.device],
          ['MSISDN', found.msisdn && msisdnText(found.msisdn)],
          ['IMSI', found.imsi],
          ['interface identifier', found.interfaceId],
          ['MTC user', found.mtcUser ?? 'none'],
          ['registered by', found.source === 'file' ? 'the devices file' : 'an import'],
          ...Object.entries(found.attributes ?? {}),
        ]);
        print('');
        printRows({}, found.bindings, ['realm', 'address', 'target', 'source', 'since'], 'holds no address');
        print('');
        if (found.before.length > 0) {
          print('held before');
          printRows({}, found.before, ['realm', 'address', 'source', 'since', 'until', 'cause'], '');
          print('');
        }
        printRows({}, found.grants, GRANT_COLUMNS, 'no live grants');
        const more = found.liveGrants + found.waitingGrants - found.grants.length;
        if (more > 0) print(`and ${more} more: mtgate grants list --device ${found.device}`);
      }),
    {
      more: 'By external identifier, MSISDN or IMSI; digits that are both are the MSISDN. Unless they are kept (identities\nin agent.yaml), what stands for them is shown, as in the log and the records; it is taken here, too.',
      examples: ['mtgate device show m1@meters.acme.example', 'mtgate device show +491715550100'],
    },
  );
  registerDeviceRows(device);

  explainUse(
    changing(device.command('bind <device> <realm> <address>'), 'POST', 'bound').description(
      'a device has an address now; grants that rested on the former state end',
    ),
    { examples: ['mtgate device bind m2@meters.acme.example iot 10.20.0.9'] },
  );
  explainUse(
    changing(device.command('unbind <device> <realm> <address>'), 'DELETE', 'unbound').description(
      'a device has an address no more; its grants there end',
    ),
    {
      more: 'What the devices file binds, the file alone unbinds: change it, then `mtgate reload`.',
      examples: ['mtgate device unbind m2@meters.acme.example iot 10.20.0.9'],
    },
  );
}

function changing(command: Command, method: 'POST' | 'DELETE', done: 'bound' | 'unbound'): Command {
  return command
    .addOption(socket())
    .addOption(json())
    .action(async (device: string, realm: string, address: string, ask: Ask) => {
      await call(ask, method, '/bindings', { device, realm, address });
      if (ask.json) printJson({ [done]: { device, realm, address } });
      else print(`${done} ${device} ${done === 'bound' ? 'to' : 'from'} ${address} in ${realm}`);
    });
}
