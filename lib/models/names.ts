/** Names of tensors: how files spell them, and how our graphs do. */
import type { Network } from '../native.js'

const SPELLINGS: Record<Network['architecture'], [theirs: RegExp, ours: string][]> = {
  unet: [],
  // transformers 5 drops the prefix that every earlier file, and kohya's names, have.
  clip: [[/^(embeddings|encoder|final_layer_norm)\./, 'text_model.$1.']],
  // Attention as diffusers' first VAE files name it (huggingface/diffusers:src/diffusers/models/modeling_utils.py).
  vae: [
    [/(\.attentions\.\d+)\.query\./, '$1.to_q.'],
    [/(\.attentions\.\d+)\.key\./, '$1.to_k.'],
    [/(\.attentions\.\d+)\.value\./, '$1.to_v.'],
    [/(\.attentions\.\d+)\.proj_attn\./, '$1.to_out.0.'],
  ],
}

/** What lies beside the weights of networks and takes no part in what they compute: buffers, losses, copies, CLIP's half for pictures. */
const LEFTOVERS: Record<Network['architecture'], RegExp> = {
  unet: /^model_ema\./,
  clip: /(^|\.)position_ids$|^(logit_scale|attn_mask)$|^(visual|vision_model|visual_projection)[._]/,
  vae: /^(loss|model_ema)\./,
}

/** Whether a tensor among those of a network is none of its weights, and may be left out. */
export function isLeftover(architecture: Network['architecture'], name: string): boolean {
  return LEFTOVERS[architecture].test(name)
}

/** Returns our spelling of a name in a file. */
export function ourName(architecture: Network['architecture'], name: string): string {
  return SPELLINGS[architecture].reduce((spelled, [theirs, ours]) => spelled.replace(theirs, ours), name)
}
