// What dropout's masks are drawn from, checked.
#pragma once

#include "array.hpp"

#include <limits>

namespace pyalexnet {

class DrawArgument {
  public:
    // For maps (images, features).
    DrawArgument(Call& call, double keep, std::uint64_t seed, py::handle step, std::uint32_t layer,
                 std::int64_t offset, std::int64_t total, std::int64_t images,
                 std::int64_t features)
        : draw_{keep, seed, {}, layer, offset, total}, step_(call.counter("step", step)) {
        call.expect(0.0 <= keep && keep <= 1.0,
                    "keep is " + std::to_string(keep) + "; 0 to 1 was expected");
        call.expect(offset >= 0 && total >= features && offset <= total - features,
                    "offset is " + std::to_string(offset) + "; the " + std::to_string(features) +
                        " features of an image were expected to lie within total, " +
                        std::to_string(total));
        call.expect(total <= std::numeric_limits<std::int64_t>::max() / images,
                    "total is " + std::to_string(total) + "; times " + std::to_string(images) +
                        " images it does not fit 63 bits");
    }
    DropoutDraw get() const {
        DropoutDraw draw = draw_;
        draw.step = step_.get();
        return draw;
    }

  private:
    DropoutDraw draw_;
    NumberArgument<std::uint32_t, Counter> step_;
};

} // namespace pyalexnet
