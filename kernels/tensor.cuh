// The main loop of matrix products on any card's tensor cores, of bf16 and of float32 in parts:
// mma.sync m16n8k16 fed by ldmatrix, and by cp.async where the operands are bf16 (sm_80 and up).
//
//   C[g][m][n] = sum over d of A[g][m][d] * B[g][d][n],     m < rows, n < columns, d < depth
//
// A block computes one tile of C, each of its warps an equal part of that. Slices of A and B, 32
// deep, arrive in a ring of stages in shared memory: while the warps multiply one, copies of the
// next ones are under way, and the one multiplied before is overwritten. So one barrier a slice is
// enough. A warp reads fragments of 16 x 16 elements from shared memory by ldmatrix, the next 16 of
// the depth before it multiplies the present 16. A stage keeps an operand as it lies in global
// memory, along its depth or along its lines; in the second case ldmatrix transposes it.
//
// A thread copies 16 bytes at a time where the operand always has eight contiguous elements,
// aligned to 16 bytes (`vectors`). Otherwise it gathers its elements one by one.
//
// A slice has three planes for float32 operands, one for bf16: a float is exactly the sum of the
// bf16 nearest to it (high), the bf16 nearest to the remainder (middle), and the rest (low). Copies
// cannot split it, so it passes through registers: it is read before the present slice is
// multiplied and split afterwards. Six of the nine products of planes are taken; middle low and low
// middle, at most 2^-24 of a product together, and low low, 2^-34, are not (middle is at most 2^-8
// of a number, low 2^-17). They are summed from zero, 16 of the depth at a time, smallest first, so
// that the small ones are rounded at their own size; each sum of 16 is then added once, in true
// float32. So less is lost than in a chain of float32 multiply-adds, and tensor cores, which
// truncate sums rather than round them, do so only in sums of 16 (Ootomo and Yokota: Recovering
// single precision accuracy from tensor cores; 2022).
//
// An element is summed 16 products of the depth at a time, in their order: it depends on the split
// of the depth alone, not on the tile, nor on how the operands were loaded.
//
// Bound by the tensor cores' rate. A warp of bf16 that holds 64 x 64 sums reads 4 KiB of shared
// memory for 32 products, half of what the banks can deliver meanwhile; the copies of a 128 x 128
// tile take another quarter, those of 256 x 64 a third. Two blocks share a multiprocessor, so that
// one multiplies while the other begins or ends.
#pragma once

#include <algorithm>

#include "sums.cuh"

namespace pyalexnet {

constexpr int kTensorSlice = 32; // depth of a slice: 64 bytes of a row are two sectors
constexpr int kFragment = 16;    // lines and depth of a fragment
constexpr int kChunk = 8;        // bf16 of 16 bytes

// A tile of the product, a warp's share of it, the planes of its operands, and how many blocks of
// it a multiprocessor has registers and shared memory for.
template <int TileM_, int TileN_, int WarpM_, int WarpN_, int Stages_, int Planes_, int Blocks_>
struct TensorTile {
    static constexpr int TileM = TileM_, TileN = TileN_, WarpM = WarpM_, WarpN = WarpN_;
    static constexpr int Stages = Stages_, Planes = Planes_, Blocks = Blocks_;
    static constexpr int WarpsN = TileN / WarpN;
    static constexpr int Threads = 32 * (TileM / WarpM) * WarpsN;
    static constexpr int Finishers = Threads; // threads that hand the sums to the epilogue
};

// ---------------------------------------------------------------------- a slice in shared memory

enum class Operand { a, b };

// Lines x depth of one operand: rows of 16-byte chunks, along the depth or along the lines. Each
// row's chunks are swizzled so that the eight rows that ldmatrix reads at a time lie in eight
// different groups of four banks, as do the chunks that eight threads copy.
template <class Source, int Lines> struct Slice {
    static constexpr bool kAlongDepth = Source::kContiguous == Contiguous::depth;
    static constexpr int kRows = kAlongDepth ? Lines : kTensorSlice;
    static constexpr int kChunks = (kAlongDepth ? kTensorSlice : Lines) / kChunk;
    static constexpr int kElements = Lines * kTensorSlice;
    static_assert(kChunks == 4 || kChunks % 8 == 0);

    __device__ __forceinline__ static int at(int row, int chunk) {
        return (row * kChunks + (chunk ^ turn(row))) * kChunk;
    }

    // at(row + rows, chunk + chunks) for offset = at(row, chunk), where neither sum carries: with
    // compile-time numbers it costs one operation, or none.
    __device__ __forceinline__ static int moved(int offset, int rows, int chunks) {
        return (offset ^ ((chunks ^ turn(rows)) * kChunk)) + rows * kChunks * kChunk;
    }

    // Where a lane finds its row of the fragment of 16 x 16 at (line, 0), as ldmatrix takes it:
    // four matrices of 8 x 8; the second follows the first along the lines in an A, along the depth
    // in a B.
    __device__ __forceinline__ static int of_lane(int line, Operand operand) {
        const int lane = static_cast<int>(threadIdx.x) % 32;
        const bool rows_first = kAlongDepth == (operand == Operand::a);
        const int row = rows_first ? lane % 16 : lane % 8 + lane / 16 * 8;
        const int chunk = rows_first ? lane / 16 : lane / 8 % 2;
        return kAlongDepth ? at(line + row, chunk) : at(row, line / kChunk + chunk);
    }

    // The fragment that lies `i` fragments after the lane's along the lines, and `k` along the
    // depth: an A of m16n8k16, or two of its Bs.
    __device__ __forceinline__ static void fragment(const bf16* slice, int of_lane, int i, int k,
                                                    std::uint32_t (&r)[4]) {
        constexpr int chunks = kFragment / kChunk;
        if constexpr (kAlongDepth)
            simt::ldmatrix_x4(r, slice + moved(of_lane, i * kFragment, k * chunks));
        else
            simt::ldmatrix_x4_trans(r, slice + moved(of_lane, k * kFragment, i * chunks));
    }

  private:
    __device__ __forceinline__ static int turn(int row) {
        return kChunks == 4 ? row / 2 % 4 : row % 8;
    }
};

// Stores a one, then zeros: a chunk of the line of ones.
__device__ __forceinline__ void put_one(bf16* chunk) {
    *reinterpret_cast<uint4*>(chunk) = make_uint4(pack(1.0f, 0.0f), 0, 0, 0);
}

// Loads slices of one operand into shared memory, 16 bytes of global memory at a time: a piece. A
// thread has one piece in each of several rows; it looks up once which lines of the operand its
// rows, or its piece, belong to.
template <class Source, int Lines, int Threads, bool vectors> class Loader {
    using Layout = Slice<Source, Lines>;
    using Element = typename Source::Element;
    static constexpr bool kSplit = std::is_same_v<Element, float>;
    static constexpr int kPiece = kVector<Element>;
    static constexpr int kPieces = Layout::kChunks * kChunk / kPiece; // of a row
    static constexpr int kStep = Threads / kPieces; // rows between two of a thread's
    static constexpr int kCount = Layout::kRows / kStep;
    static_assert(Threads % kPieces == 0 && Layout::kRows % kStep == 0);
    static_assert((kStep & (kStep - 1)) == 0); // no carry where rows are moved by it

  public:
    __device__ Loader(const Source& source, int first_line)
        : source_(source), first_line_(first_line),
          first_(Layout::at(row(), along() / kChunk) + along() % kChunk) {
#pragma unroll
        for (int i = 0; i < (Layout::kAlongDepth ? kCount : 1); ++i)
            lines_[i] =
                source_.line(first_line + (Layout::kAlongDepth ? row() + i * kStep : along()));
    }

    // Begins to load the slice from `depth` on, zeros from `depth_end` on.
    __device__ __forceinline__ void begin(bf16* slice, int depth, int depth_end) {
        if constexpr (vectors) {
            const auto shared = source_.point(depth + along()); // by all, along the depth
#pragma unroll
            for (int i = 0; i < kCount; ++i) {
                const int at = depth + (Layout::kAlongDepth ? along() : row() + i * kStep);
                const auto& line = lines_[Layout::kAlongDepth ? i : 0];
                const Location<Element> from =
                    source_.find(line, Layout::kAlongDepth ? shared : source_.point(at));
                const bool inside = from.inside && at < depth_end;
                if constexpr (kSplit)
                    load(from.at, inside, is_ones(source_, line), floats_[i]);
                else if (is_ones(source_, line))
                    put_one(place(slice, i));
                else
                    simt::cp_async_16(place(slice, i), from.at, inside);
            }
        } else if constexpr (!kSplit) {
            gather(slice, depth, depth_end);
        }
    }

    // The same slice once more: stores what begin() left in registers, or gathers floats now.
    __device__ __forceinline__ void finish(bf16* slice, int depth, int depth_end) {
        if constexpr (!kSplit) return;
        if constexpr (vectors) {
#pragma unroll
            for (int i = 0; i < kCount; ++i) store(place(slice, i), floats_[i]);
        } else {
            gather(slice, depth, depth_end);
        }
    }

  private:
    // Where a thread's pieces begin in their rows.
    __device__ static int along() { return static_cast<int>(threadIdx.x) % kPieces * kPiece; }
    __device__ static int row() { return static_cast<int>(threadIdx.x) / kPieces; }
    __device__ __forceinline__ bf16* place(bf16* slice, int i) const {
        return slice + Layout::moved(first_, i * kStep, 0);
    }

    __device__ void gather(bf16* slice, int depth, int depth_end) const {
        for (int i = 0; i < kCount; ++i) {
            const auto element = [&](int j) {
                const int across = row() + i * kStep;
                const int line = first_line_ + (Layout::kAlongDepth ? across : along() + j);
                const int point = depth + (Layout::kAlongDepth ? along() + j : across);
                const auto own = source_.line(line);
                if (is_ones(source_, own)) return narrow<Element>(1.0f); // first: 20 registers less
                const Location<Element> from = source_.find(own, source_.point(point));
                return from.inside && point < depth_end ? *from.at : Element{};
            };
            if constexpr (kSplit)
                store(place(slice, i), {element(0), element(1), element(2), element(3)});
            else
                for (int j = 0; j < kPiece; ++j) place(slice, i)[j] = element(j);
        }
    }

    __device__ __forceinline__ static void load(const float* from, bool inside, bool ones,
                                                float (&piece)[4]) {
        if (inside) return load_vector(from, piece);
        piece[0] = ones ? 1.0f : 0.0f;
        piece[1] = piece[2] = piece[3] = 0.0f;
    }

    // The planes follow one another.
    __device__ __forceinline__ static void store(bf16* to, const float (&piece)[4]) {
        const Planes left = split(piece[0], piece[1]), right = split(piece[2], piece[3]);
#pragma unroll
        for (int plane = 0; plane < 3; ++plane)
            *reinterpret_cast<uint2*>(to + plane * Layout::kElements) =
                make_uint2(left.of[plane], right.of[plane]);
    }

    Source source_;
    typename Source::Line lines_[Layout::kAlongDepth ? kCount : 1];
    int first_line_;
    int first_; // offset of the thread's first piece in a slice
    float floats_[kSplit && vectors ? kCount : 1][4]; // in flight
};

// Bytes of shared memory: first for the stages, then for the sums.
template <class T> constexpr std::size_t kTensorShared =
    std::max(sizeof(bf16) * T::Stages * T::Planes * (T::TileM + T::TileN) * kTensorSlice,
             sizeof(float) * SumTile<T>::kFloats);

// ---------------------------------------------------------------------- products of fragments

// Fragments of 16 x 16 of every plane.
template <int planes> using Fragment = std::uint32_t[planes][4];

// Adds the products of a row of fragments: `product(a's plane, b's plane, n, sums)` multiplies.
template <int planes, int count, class Product>
__device__ __forceinline__ void add_products(float (&sums)[count][4], const Product& product) {
    if constexpr (planes == 1) {
#pragma unroll
        for (int n = 0; n < count; ++n) product(0, 0, n, sums[n]);
    } else {
        // The products of high, middle and low planes that count, smallest first.
        constexpr int a[] = {2, 0, 1, 1, 0, 0};
        constexpr int b[] = {0, 2, 1, 0, 1, 0};
        float sixteen[count][4] = {};
#pragma unroll
        for (int i = 0; i < 6; ++i)
#pragma unroll
            for (int n = 0; n < count; ++n) product(a[i], b[i], n, sixteen[n]);
#pragma unroll
        for (int n = 0; n < count; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[n][i] += sixteen[n][i];
    }
}

// ---------------------------------------------------------------------- the kernel

// A block computes a TileM x TileN tile of C for one group and one part of the depth, each warp a
// part of that. Along the grid the column tiles of C move fastest, since where there are few of
// them their blocks share rows of a large A; then row tiles, groups, parts. Bound by operations.
template <class Problem, class T> __global__ void __launch_bounds__(T::Threads, T::Blocks)
    tensor_gemm_kernel(Problem problem, GemmSize size, float* partial) {
    SIMT_DYN_SHARED(float, shared);
    using A = typename Problem::A;
    using B = typename Problem::B;
    using SliceA = Slice<A, T::TileM>;
    using SliceB = Slice<B, T::TileN>;
    constexpr int kFragmentsA = T::WarpM / kFragment;
    constexpr int kFragmentsB = T::WarpN / kFragment;
    constexpr int kPlanes = T::Planes;
    bf16* const a_stages = reinterpret_cast<bf16*>(shared);
    bf16* const b_stages = a_stages + T::Stages * kPlanes * SliceA::kElements;

    const TilePlace tile = tile_place<T>(size, Fastest::columns);
    const Depth part = depth_of(tile, size);
    const int slices = (part.end - part.begin + kTensorSlice - 1) / kTensorSlice;
    Loader<A, T::TileM, T::Threads, Problem::vectors> a_loader(problem.a(tile.group), tile.row);
    Loader<B, T::TileN, T::Threads, Problem::vectors> b_loader(problem.b(tile.group), tile.column);
    const auto a_slice = [&](int stage) { return a_stages + stage * kPlanes * SliceA::kElements; };
    const auto b_slice = [&](int stage) { return b_stages + stage * kPlanes * SliceB::kElements; };
    // Past the end zeros are multiplied, so no check is needed.
    const auto begin_fetch = [&](int slice, int stage) {
        const int depth = part.begin + slice * kTensorSlice;
        a_loader.begin(a_slice(stage), depth, part.end);
        b_loader.begin(b_slice(stage), depth, part.end);
        simt::cp_async_commit();
    };
    const auto finish_fetch = [&](int slice, int stage) {
        const int depth = part.begin + slice * kTensorSlice;
        a_loader.finish(a_slice(stage), depth, part.end);
        b_loader.finish(b_slice(stage), depth, part.end);
    };

    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int warp_row = warp / T::WarpsN * T::WarpM;
    const int warp_column = warp % T::WarpsN * T::WarpN;
    using Fragments = Fragment<kPlanes>;
    const int a_of_lane = SliceA::of_lane(warp_row, Operand::a);
    const int b_of_lane = SliceB::of_lane(warp_column, Operand::b);
    const auto read_a = [&](Fragments& a, int m, int stage, int k) {
#pragma unroll
        for (int plane = 0; plane < kPlanes; ++plane)
            SliceA::fragment(a_slice(stage) + plane * SliceA::kElements, a_of_lane, m, k, a[plane]);
    };
    const auto read_b = [&](Fragments(&b)[kFragmentsB], int stage, int k) {
#pragma unroll
        for (int plane = 0; plane < kPlanes; ++plane)
#pragma unroll
            for (int n = 0; n < kFragmentsB; ++n)
                SliceB::fragment(b_slice(stage) + plane * SliceB::kElements, b_of_lane, n, k,
                                 b[n][plane]);
    };

    float sums[kFragmentsA][2 * kFragmentsB][4] = {};
    Fragments a[kFragmentsA];
    Fragments b[2][kFragmentsB];
    // Multiplies the present fragments and reads the next ones, each of A into the registers of the
    // one just used.
    const auto step = [&](const Fragments(&now)[kFragmentsB], Fragments(&next)[kFragmentsB],
                          int next_stage, int next_k) {
        read_b(next, next_stage, next_k);
#pragma unroll
        for (int m = 0; m < kFragmentsA; ++m) {
            add_products<kPlanes>(sums[m], [&](int of_a, int of_b, int n, float (&to)[4]) {
                const std::uint32_t (&two)[4] = now[n / 2][of_b];
                const std::uint32_t eight[2] = {two[n % 2 * 2], two[n % 2 * 2 + 1]};
                simt::mma_m16n8k16(to, a[m][of_a], eight);
            });
            read_a(a[m], m, next_stage, next_k);
        }
    };

#pragma unroll
    for (int slice = 0; slice < T::Stages - 1; ++slice) {
        begin_fetch(slice, slice);
        finish_fetch(slice, slice);
    }
    simt::cp_async_wait<T::Stages - 2>();
    __syncthreads();
#pragma unroll
    for (int m = 0; m < kFragmentsA; ++m) read_a(a[m], m, 0, 0);
    read_b(b[0], 0, 0);
    int stage = 0;                  // of the present slice
    int free_stage = T::Stages - 1; // of the one before it, no longer needed
    for (int slice = 0; slice < slices; ++slice) {
        static_assert(kTensorSlice == 2 * kFragment);
        begin_fetch(slice + T::Stages - 1, free_stage);
        step(b[0], b[1], stage, 1);
        finish_fetch(slice + T::Stages - 1, free_stage);
        free_stage = stage;
        stage = stage + 1 == T::Stages ? 0 : stage + 1;
        simt::cp_async_wait<T::Stages - 2>();
        __syncthreads();
        step(b[1], b[0], stage, 0);
    }

    // The sums replace the stages, into which the last copies may still be in flight.
    simt::cp_async_wait<0>();
    __syncthreads();
#pragma unroll
    for (int m = 0; m < kFragmentsA; ++m) {
        const int row = warp_row + m * kFragment;
        put_sixteen<T, 2 * kFragmentsB>(shared, row, warp_column,
                                        [&](int n, int i) { return sums[m][n][i]; });
    }
    __syncthreads();
    hand_over_tile<T>(problem.epilogue, size, tile, partial, shared);
}

} // namespace pyalexnet
