#pragma once
#include "G4ThreeVector.hh"
class G4AffineTransform {
public:
    G4AffineTransform() = default;
    // Images of the axes, and of the origin.
    G4AffineTransform(const G4ThreeVector& x, const G4ThreeVector& y, const G4ThreeVector& z, const G4ThreeVector& origin)
        : r_{x, y, z}, t_(origin) {}
    G4ThreeVector TransformPoint(const G4ThreeVector& p) const { return TransformAxis(p) + t_; }
    G4ThreeVector TransformAxis(const G4ThreeVector& p) const { return p.x() * r_[0] + p.y() * r_[1] + p.z() * r_[2]; }

private:
    G4ThreeVector r_[3] = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}, t_;
};
