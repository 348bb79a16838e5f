/**
 * The step `binding` of a request's way: whether its device can be reached in
 * the family that was decided, and why not. No matter of policy, so decide
 * does not know it; `explain --live` tells it beside.
 */
import type { Family } from '../core/net.ts';
import type { ExternalId } from '../core/words.ts';
import { addressText } from '../directory/binding.ts';
import type { Directory } from '../directory/directory.ts';
import { no, type Stop, type TraceLine, yes } from '../policy/steps.ts';

/** Why a device that has no binding to lead a grant to has none. */
export function unreachable(directory: Directory, device: ExternalId, family: Family): Stop {
  const isConfirmed = directory
    .bindingsOf(device)
    .every((one) => one.prefix.family !== family || directory.isConfirmed(one));
  if (!isConfirmed)
    return no('deviceUnreachable', 'the agent was away, and nothing has told since that the device is still there');
  return directory.familiesOf(device).includes(family)
    ? no('addressUnknown', 'bound to a prefix, and no interface identifier is known')
    : no('deviceUnreachable', `not bound in ${family}`);
}

/** The step as it would be taken. */
export function bindingStep(directory: Directory, device: ExternalId, family: Family): TraceLine {
  const binding = directory.bindingOf(device, family);
  return binding
    ? yes('binding', `${addressText(binding)} in ${binding.realm}`)
    : unreachable(directory, device, family);
}
