/**
 * The gate in the kernel keeps the promises of a data plane: the very suite
 * its twin in memory keeps. And one more, since its entries, unlike the
 * twin's, outlive the set-up that they were opened under.
 */
import { afterAll, beforeAll, describe, test } from 'vitest';
import { ethernet, ip, udp } from '../frames.ts';
import { describeDataplane } from '../suites/dataplane.ts';
import { addClasses, HOUR, mapping, nowNs, serverOf, setupOf } from '../suites/fixture.ts';
import { expectOutcome } from '../suites/packets/table.ts';
import { gateStand, type Stand } from './gate-stand.ts';

describe('the gate', () => {
  let stand: Stand;
  beforeAll(() => {
    stand = gateStand();
  });
  afterAll(() => stand.close());

  describeDataplane('gate', (setup) => stand.make(setup));

  test('carries nothing to a realm that the set-up no longer has', async () => {
    const rig = await stand.make(setupOf);
    const grant = mapping({ external: '203.0.113.1:40000', device: '10.99.0.2:100', realm: 99 });
    addClasses(rig.plane);
    rig.plane.heartbeat(nowNs());
    rig.plane.open(grant, nowNs() + HOUR);
    const knock = ip(serverOf(grant), '203.0.113.1', udp(5000, 40_000));
    expectOutcome(rig, 'outsideIngress', ethernet(knock), 'noGrant');
    await rig.close();
  });
});
