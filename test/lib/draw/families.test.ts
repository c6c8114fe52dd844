import assert from 'node:assert/strict'
import { cp, readdir, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import sharp from 'sharp'
import { kohyaLayer } from '../../../lib/adapters/kohya.js'
import { generate } from '../../../lib/draw/generate.js'
import { writeSafetensors } from '../../../lib/files/safetensors.js'
import { loraPrefixes, openSession } from '../../../lib/models/model.js'
import { readModel } from '../../../lib/models/read.js'
import type { GenerateOptions } from '../../../lib/options/resolve.js'
import { normal } from '../../../lib/random.js'
import { tiny } from '../../fixtures/lora.js'
import { temporaryFolder } from '../../fixtures/temporary.js'
import { goldenModel } from '../../train/hollow.js'

/** A golden model with the bundled one's vocabulary, which is read in no time; what pads is its own. */
async function withFewWords(t: TestContext, name: string): Promise<string> {
  const [from, to] = [await goldenModel(name), await temporaryFolder(t)]
  for (const entry of await readdir(from)) {
    if (!entry.startsWith('tokenizer')) {
      await symlink(join(from, entry), join(to, entry))
      continue
    }
    await cp(join(from, entry, 'tokenizer_config.json'), join(to, entry, 'tokenizer_config.json'))
    for (const file of ['vocab.json', 'merges.txt']) await cp(join(tiny, 'tokenizer', file), join(to, entry, file))
  }
  return to
}

/** Draws with a small random model of a family. */
async function draw(model: string, options: Partial<GenerateOptions> = {}): Promise<Buffer> {
  const [image] = await generate({ model, prompt: 'an apple', steps: 1, cfg: 3, seed: 1, width: 64, height: 64, ...options })
  return sharp(image!.png).removeAlpha().raw().toBuffer()
}

for (const name of ['golden-sd2', 'golden-sdxl-model']) {
  test(`${name}: every part of the text counts, and a LoRA on each network`, async (t) => {
    const path = await withFewWords(t, name)
    const plain = await draw(path)
    assert.deepEqual(await draw(path), plain)
    for (const options of [
      { prompt: 'a (house:1.3)' },
      { prompt: 'an apple BREAK a house' },
      { negativePrompt: 'red' },
      { sampler: 'Euler a' as const },
      { width: 128 },
    ]) {
      assert.notDeepEqual(await draw(path, options), plain, JSON.stringify(options))
    }
    const model = await readModel(path)
    const session = openSession(model, { device: 'cpu', threads: 1, precision: 'f32' })
    const folder = await temporaryFolder(t)
    const prefixes = loraPrefixes(model.family, model.networks)
    for (const [i, network] of Object.keys(prefixes).entries()) {
      const { path: layer, inFeatures, outFeatures } = session.layers(network).find(({ path: one }) => /fc1$|attn2\.to_k$/.test(one))!
      const matrix = (role: string, shape: [number, number], index: number) => ({
        name: `${kohyaLayer(prefixes, network, layer)}.lora_${role}.weight`,
        dtype: 'F32' as const,
        shape,
        data: normal({ seed: 2, stream: 'adapters', index }, shape[0] * shape[1]),
      })
      const lora = join(folder, `${network}.safetensors`)
      await writeSafetensors(lora, [matrix('down', [1, inFeatures], 2 * i), matrix('up', [outFeatures, 1], 2 * i + 1)])
      assert.notDeepEqual(await draw(path, { lora }), plain, network)
      assert.deepEqual(await draw(path, { lora: `${lora}:0` }), plain)
    }
    session.dispose()
  })
}
