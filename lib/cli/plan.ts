/** A plan as text. */
import { counted } from '../data/skipped.js'
import type { TrainingPlan } from '../train/plan.js'
import { columns } from './columns.js'
import { duration, memory } from './progress.js'

export function describePlan(plan: TrainingPlan): string {
  const { bytes, device, gpu, largest } = plan
  const tera = (n: number) => (n / 1e12).toFixed(2)
  const kinds: [string, string, string?][] = [
    ['weights', memory(bytes.weights), bytes.mapped > 0 ? `${memory(bytes.mapped)} of it mapped from the file` : ''],
    ['LoRA', memory(bytes.adapters), `${plan.modules} modules, ${plan.parameters.toLocaleString('en')} parameters`],
    ['gradients', memory(bytes.gradients)],
    ['optimizer', memory(bytes.optimizer)],
    ['activations', memory(bytes.activations)],
    ['workspace', memory(bytes.workspace)],
    ['caches', memory(bytes.caches), 'latents and captions'],
    ['programs', memory(bytes.programs), 'of the kinds of steps'],
    ['saving', memory(bytes.saving)],
  ]
  const again = plan.recomputed === undefined ? [] : [`${counted(plan.recomputed, 'part')} computed again`]
  const on = gpu ? `${gpu.name}, ${memory(gpu.free)} free of ${memory(gpu.memory)}` : device === 'cpu' ? 'the CPU' : 'the GPU'
  const there = gpu?.name ?? (device === 'cpu' ? 'this machine' : 'the GPU')
  const estimate = gpu && `the time is an estimate that no card has confirmed${gpu.note === undefined ? '' : `; ${gpu.note}`}`
  const held = largest.map(({ name, layer, shape, bytes }) => [layer === '' ? name : layer, memory(bytes), `${name} ${shape.join(' × ')}`])
  return [
    `model: ${plan.model}`,
    `${counted(plan.images, 'image')}, ${counted(plan.steps, 'step')}, ${plan.precision} on ${on}`,
    columns(
      kinds.map(([name, value, note = '']) => [name, value, note]),
      [0, 2],
    ),
    `${memory(bytes.total)} planned, ${memory(bytes.process)} of memory for the process, ${memory(bytes.disk)} of disk; ${
      plan.fits ? `${there} has as much` : `${there} has less`
    }`,
    `a step: ${plan.secondsPerStep.toFixed(plan.secondsPerStep < 1 ? 3 : 2)} s (${tera(plan.flops)} TFLOP and ${memory(plan.traffic)} of traffic a batch); all steps: ${duration(plan.seconds)}`,
    ...(estimate === undefined ? [] : [estimate]),
    ...again,
    ...(plan.shortage === undefined ? [] : [plan.shortage]),
    'largest when most is alive:',
    columns(held, [0, 2]),
  ].join('\n')
}
