/** UNets as SDXL's distilled kin have them, from folders and from single files, whose reader finds out from shapes how they are made. */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'
import { readCheckpoint } from '../../lib/models/checkpoint.js'
import { unetConfig } from '../../lib/models/configs.js'
import { readNetworkFolder } from '../../lib/models/diffusers.js'
import type { NetworkParts } from '../../lib/models/model.js'
import { networksIn } from '../../lib/models/single-file.js'
import { type Inputs, native, type Session } from '../../lib/native.js'
import { attach, compare, drawnInputs, type Golden, named, type Place, readGolden, tensor, train } from './golden.js'
import { goldenModel, singleFile } from './hollow.js'
import { pattern } from './pattern.js'

const place: Place = { title: 'on the CPU', device: 'cpu', computes: 'f32' }

function condition(golden: Golden): Inputs {
  const [n, pooled] = [golden.case.latents[0], golden.tensor('pooled')]
  const context = golden.tensor('context')
  return {
    context: tensor([n, 7, context.length / (7 * n)], context),
    pooled: tensor([n, pooled.length / n], pooled),
    time_ids: tensor([n, 6], golden.tensor('time_ids')),
  }
}

async function predictions(golden: Golden, session: Session, group: string): Promise<[string, Float32Array][]> {
  const [n, h, w] = golden.case.latents
  const found: [string, Float32Array][] = []
  for (const timesteps of [Float32Array.of(0, 999), Float32Array.of(17, 500)]) {
    const latents = tensor([n, h, w, 4], pattern(`latents ${timesteps[0]}`, n * h * w * 4))
    const [predicted] = await session.run('unet', 'predict', { latents, timesteps: tensor([n], timesteps), ...condition(golden) })
    found.push([`${group}/${timesteps}`, predicted!.data as Float32Array])
  }
  return found
}

for (const name of ['ssd', 'vega']) {
  test(`an irregular UNet (${name}) from a folder and from a single file is that of diffusers, its gradients are those of peft`, async () => {
    const folder = await goldenModel(`golden-${name}`)
    const golden = await readGolden(`golden-${name}`, folder)
    const sources: NetworkParts[] = [
      await readNetworkFolder(join(folder, 'unet'), 'unet'),
      networksIn(await readCheckpoint(await singleFile(`${name}.safetensors`), 'a checkpoint')).unet!,
    ]
    const configs = sources.map(({ config }) => unetConfig(config))
    // What is regular may be written either way.
    const rest = configs.map((config) => ({ ...config, transformer_layers_per_block: [], reverse_transformer_layers_per_block: [] }))
    if (name === 'ssd') assert.deepEqual(configs[1], configs[0])
    else assert.deepEqual(rest[1], rest[0])
    for (const [i, { files }] of sources.entries()) {
      const networks = { unet: { architecture: 'unet', config: configs[i]!, files } } as const
      const session = new (native().Session)({ device: place.device, threads: 2, precision: place.computes, networks })
      session.attach([])
      compare(golden, place, 'unet', await predictions(golden, session, 'unet'))
      const parameters = attach(session, golden, 'default')
      compare(golden, place, 'unet_lora', await predictions(golden, session, 'unet_lora'))
      const losses = await train(session, { ...drawnInputs(golden, 0), ...condition(golden) })
      compare(golden, place, 'losses_default', [['losses_default', losses]])
      const gradients = named(parameters, session.read('gradients')).map(([path, value]): [string, Float32Array] => [
        `gradients_default/${path}`,
        value,
      ])
      const kept = gradients.filter(([path]) => golden.has(path))
      assert.ok(kept.length > 5)
      compare(golden, place, 'gradients_default', kept)
      session.dispose()
    }
  })
}
